with messages as (select * from {{ ref('stg_flights') }}),

final as (
    select
        flight_id,
        _loaded_at as known_at,
        tailnum,
    from messages
    where tailnum is not null and record_kind != 'closed'
    qualify row_number() over (partition by flight_id order by _loaded_at) = 1
)

select * from final
