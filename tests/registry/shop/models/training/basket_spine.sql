select 'north' as store_id, 7::bigint as item_id, timestamptz '2013-01-01 12:00:00+00' as predict_at
