select 'north' as store_id, timestamptz '2013-01-01 10:00:00+00' as known_at, timestamptz '2013-01-01 11:00:00+00' as loaded_at, 3::bigint as sales_24h, 1.5::double as mean_price
union all
select 'south', timestamptz '2013-01-01 10:00:00+00', timestamptz '2013-01-01 11:00:00+00', 0::bigint, null
