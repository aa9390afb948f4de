with planes as (select * from {{ ref('stg_planes') }}),

registered as (
    select *
    from planes
    qualify row_number() over (partition by tailnum order by _loaded_at) = 1
),

-- Airlines report tail numbers that now belong to somebody's small aircraft: the registration
-- was given out again. Such a row is not the aircraft that flies.
judged as (
    select
        *,
        seat_count >= 20
        and aircraft_type != 'Rotorcraft'
        and engine_type not in ('Reciprocating', '4 Cycle') as is_airliner,
    from registered
),

final as (
    select
        -- keys
        tailnum,

        -- times
        _loaded_at as known_at,

        -- strings
        case
            when not is_airliner then null
            when manufacturer like 'AIRBUS%' then 'AIRBUS'
            when manufacturer like 'MCDONNELL DOUGLAS%' then 'MCDONNELL DOUGLAS'
            when manufacturer like 'BOMBARDIER%' or manufacturer = 'CANADAIR' then 'BOMBARDIER'
            else manufacturer
        end as maker,

        -- numbers
        case when is_airliner then year_built end as year_built,
        case when is_airliner then seat_count end as seat_count,

        -- booleans
        is_airliner,
    from judged
)

select * from final
