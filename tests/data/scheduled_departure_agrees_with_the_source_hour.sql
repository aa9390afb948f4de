-- The source carries the UTC hour of the scheduled departure; our own conversion must agree.
select
    flight_id,
    scheduled_departure_at,
    scheduled_departure_hour_at,
from {{ ref('int_flights') }}
where
    {{ untested('known_at') }}
    and date_trunc('hour', scheduled_departure_at) != scheduled_departure_hour_at
