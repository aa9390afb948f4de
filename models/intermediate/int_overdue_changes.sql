{{ config(materialized='incremental', incremental_strategy='rebuild_since') }}
-- A flight is overdue from 15 minutes after its schedule until it is known to have left, or for
-- six hours. Nobody knows at T that a flight is cancelled: it "has not left yet".
with flights as (select * from {{ ref('int_flights') }}),

departures as (select * from {{ ref('int_departures') }}),

arrivals as (select * from {{ ref('int_arrivals') }}),

spells as (
    select
        flights.flight_id,
        flights.carrier,
        flights.origin,
        flights.dest,
        flights.scheduled_departure_at,
        greatest(
            flights.known_at, flights.scheduled_departure_at + interval 15 minutes
        ) as enters_at,
        -- least() skips a NULL: a flight that never left stays for the six hours. One that has
        -- arrived has left, even if the record of its departure was lost.
        least(
            departures.known_at,
            arrivals.known_at,
            flights.scheduled_departure_at + interval 6 hours
        ) as leaves_at,
    from flights
    left join departures on flights.flight_id = departures.flight_id
    left join arrivals on flights.flight_id = arrivals.flight_id
    where {{ since('flights.scheduled_departure_at', ['6 hours']) }}
),

entries as (
    select
        flight_id,
        carrier,
        origin,
        dest,
        scheduled_departure_at,
        enters_at as known_at,
        1 as change,
    from spells
    where enters_at < leaves_at
),

exits as (
    select
        flight_id,
        carrier,
        origin,
        dest,
        scheduled_departure_at,
        leaves_at as known_at,
        -1 as change,
    from spells
    where enters_at < leaves_at
),

final as (
    select * from entries
    union all
    select * from exits
)

select *
from final
where {{ since('known_at') }}
