select 7::bigint as item_id, 'north' as store_id, timestamptz '2013-01-01 09:00:00+00' as known_at, 12 as left_over
