{{ config(materialized='view') }}
with messages as (select * from {{ ref('stg_flights') }}),

final as (
    select
        flight_id,
        record_kind,
        _loaded_at,
    from messages
)

select * from final
