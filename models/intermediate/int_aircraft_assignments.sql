{{ config(materialized='incremental', incremental_strategy='rebuild_since') }}
with messages as not materialized (select * from {{ ref('stg_flights') }}),

final as (
    select
        flight_id,
        _loaded_at as known_at,
        tailnum,
    from messages
    where
        tailnum is not null
        and record_kind != 'closed'
        and {{ told_of_since() }}
    qualify
        row_number() over (partition by flight_id order by {{ order_of_telling() }}) = 1
)

select *
from final
where {{ since('known_at') }}
