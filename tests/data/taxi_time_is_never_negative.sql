-- Elapsed time less time in the air is time on the ground: negative only if a clock was read in
-- the wrong zone or on the wrong day.
select
    flight_id,
    taxi_min,
from {{ ref('int_arrivals') }}
where {{ untested('known_at') }} and taxi_min < 0
