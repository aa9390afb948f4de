{{ config(materialized='view') }}
with messages as (select * from {{ ref('stg_flights') }}),

final as (
    select
        flight_id,
        scheduled_local_date,
        record_kind,
        _loaded_at,
    from messages
)

select * from final
