-- Every flight of the feed is converted to UTC: none is lost, or left without its times, for want
-- of an airport or its zone.
select distinct
    messages.flight_id,
    messages.origin,
    messages.dest,
from {{ ref('stg_flights') }} as messages
left join {{ ref('int_flights') }} as flights
    on
        messages.flight_id = flights.flight_id
        and messages.scheduled_local_date = flights.scheduled_local_date
where
    {{ untested('messages._loaded_at') }}
    and (flights.scheduled_departure_at is null or flights.scheduled_arrival_at is null)
