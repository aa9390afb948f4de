{{ config(materialized='incremental', incremental_strategy='rebuild_since') }}
with flights as (select * from {{ ref('int_flights') }}),

messages as not materialized (select * from {{ ref('stg_flights') }}),

first_told as (
    select *
    from messages
    where
        record_kind = 'arrived'
        and {{ told_of_since() }}
    qualify row_number() over (partition by flight_id order by _loaded_at) = 1
),

-- an arrival's record tells of the departure too, whose own record may be missing
landed as (
    select
        flights.*,
        first_told.tailnum,
        first_told._loaded_at as told_at,
        first_told.departure_delay_min,
        first_told.arrival_delay_min,
        first_told.air_time_min,
        flights.scheduled_departure_at
        + to_minutes(first_told.departure_delay_min) as departed_at,
        flights.scheduled_arrival_at + to_minutes(first_told.arrival_delay_min) as arrived_at,
    from first_told
    inner join flights on first_told.flight_id = flights.flight_id
    where {{ since('first_told._loaded_at') }}
),

final as (
    select
        -- keys
        flight_id,
        carrier,
        flight,
        origin,
        dest,
        tailnum,

        -- times
        arrived_at as event_at,
        told_at as known_at,
        scheduled_departure_at,
        departed_at,

        -- numbers
        arrival_delay_min,
        departure_delay_min,
        air_time_min,
        date_diff('minute', departed_at, arrived_at) as elapsed_min,
        date_diff('minute', departed_at, arrived_at) - air_time_min as taxi_min,
        distance_mi,

        -- booleans
        arrival_delay_min >= 15 as is_late,
    from landed
)

select * from final
