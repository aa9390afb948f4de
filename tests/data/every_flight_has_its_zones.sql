-- Every scheduled flight of the feed is converted: none is lost for want of an airport's zone.
select distinct
    messages.flight_id,
    messages.origin,
    messages.dest,
from {{ ref('stg_flights') }} as messages
anti join {{ ref('int_flights') }} as flights on messages.flight_id = flights.flight_id
