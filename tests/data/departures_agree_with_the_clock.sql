-- Departures are schedule plus delay; the delivered clock (without a day) must show the same.
select
    departures.flight_id,
    departures.event_at,
    messages.departure_hhmm,
from {{ ref('int_departures') }} as departures
inner join {{ ref('int_flights') }} as flights on departures.flight_id = flights.flight_id
inner join {{ ref('stg_flights') }} as messages
    on
        flights.flight_id = messages.flight_id
        and flights.scheduled_local_date = messages.scheduled_local_date
        and messages.record_kind = 'departed'
where
    {{ untested('departures.known_at') }}
    and strftime(timezone('America/New_York', departures.event_at), '%H%M')::integer
    != messages.departure_hhmm % 2400
