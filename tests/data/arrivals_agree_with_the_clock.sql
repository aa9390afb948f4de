-- Arrivals are schedule plus delay; the clock at the destination must show the same. One flight
-- of the year, in the air in the DST night of 10 March, is an hour off in the source.
{{ config(error_if='> 1', warn_if='> 1') }}
select
    arrivals.flight_id,
    arrivals.event_at,
    messages.arrival_hhmm,
from {{ ref('int_arrivals') }} as arrivals
inner join {{ ref('int_flights') }} as flights on arrivals.flight_id = flights.flight_id
inner join {{ ref('stg_flights') }} as messages
    on
        flights.flight_id = messages.flight_id
        and flights.scheduled_local_date = messages.scheduled_local_date
        and messages.record_kind = 'arrived'
where
    {{ untested('arrivals.known_at') }}
    and strftime(timezone(flights.dest_time_zone, arrivals.event_at), '%H%M')::integer
    != messages.arrival_hhmm % 2400
