{{ config(materialized='incremental', incremental_strategy='rebuild_since') }}
with flights as (select * from {{ ref('int_flights') }}),

messages as not materialized (select * from {{ ref('stg_flights') }}),

first_told as (
    select *
    from messages
    where
        record_kind = 'departed'
        and {{ told_of_since() }}
    qualify row_number() over (partition by flight_id order by _loaded_at) = 1
),

final as (
    select
        -- keys
        flights.flight_id,
        flights.carrier,
        flights.flight,
        flights.origin,
        flights.dest,
        first_told.tailnum,

        -- times: the delay is exact, the clock is not (it lacks the day)
        flights.scheduled_departure_at + to_minutes(first_told.departure_delay_min) as event_at,
        first_told._loaded_at as known_at,
        flights.scheduled_departure_at,
        flights.scheduled_arrival_at,

        -- numbers
        first_told.departure_delay_min,
        flights.block_min,
        flights.distance_mi,

        -- booleans
        first_told.departure_delay_min >= 15 as is_late,
    from first_told
    inner join flights on first_told.flight_id = flights.flight_id
    where {{ since('first_told._loaded_at') }}
)

select * from final
