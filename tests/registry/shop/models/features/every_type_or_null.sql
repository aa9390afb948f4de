select store_id, known_at, columns(* exclude (store_id, known_at, a_bigint)), 1::bigint as a_bigint
from {{ ref('every_type') }}
where store_id = 'north'
union all by name
select 'empty' as store_id, timestamptz '2013-01-01 10:00:00+00' as known_at
