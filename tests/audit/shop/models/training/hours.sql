with sales as (select * from {{ source('till', 'sales') }}),

ticks as (
    select
        store,
        unnest(generate_series(
            timestamptz '2024-03-01 00:00:00+00', timestamptz '2024-03-04 00:00:00+00', interval 1 hour
        )) as predict_at,
    from (select distinct store from sales)
)

select
    ticks.store,
    ticks.predict_at,
    count(sales.sale_id) as sold_next_hour,
from ticks
left join sales
    on ticks.store = sales.store
    and sales.loaded_at > ticks.predict_at and sales.loaded_at <= ticks.predict_at + interval 1 hour
group by all
