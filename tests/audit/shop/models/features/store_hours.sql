select
    store,
    timestamptz '2024-01-01 00:00:00+00' as known_at,
    opens_at_hour::bigint as opens_at_hour,
from {{ source('till', 'opening_hours') }}
