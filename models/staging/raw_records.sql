with
{% for name in ['flights', 'weather', 'planes', 'airports', 'airlines'] %}
{{ name }} as (
    select
        '{{ name }}' as source_name,
        min(_loaded_at) as first_loaded_at,
        max(_loaded_at) as last_loaded_at,
        count(*) as record_count,
        count(_problem) as quarantined_count,
    from {{ ref('base_' ~ name) }}
),
{% endfor %}
final as (
    select * from flights
    union all
    select * from weather
    union all
    select * from planes
    union all
    select * from airports
    union all
    select * from airlines
)

select * from final
