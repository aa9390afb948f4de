with
{% for name in ['flights', 'weather', 'planes', 'airports', 'airlines'] %}
{{ name }} as (
    select
        '{{ name }}' as source_name,
        -- of what is in quarantine, not even the time of loading is to be trusted
        min(_loaded_at) filter (_problem is null) as first_loaded_at,
        max(_loaded_at) filter (_problem is null) as last_loaded_at,
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
