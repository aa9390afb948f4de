-- Refuses the run if the shape of any file is wrong: one message, every fault in it. All staging
-- models wait for this one.
with
{% for name in ['flights', 'weather', 'planes', 'airports', 'airlines'] %}
{{ name }} as (
    {{ checked_files('raw', name) | indent(4) }}
),
{% endfor %}
checked as (
    select * from flights
    union all
    select * from weather
    union all
    select * from planes
    union all
    select * from airports
    union all
    select * from airlines
),

verdict as (
    select string_agg(chr(10) || '  ' || file_path || ' ' || fault, '' order by file_path) as faults
    from checked
),

final as (
    select
        checked.source_name,
        checked.file_path,
        checked.size_bytes,
        checked.stamp,
        case
            when verdict.faults is not null
                then error('The raw data cannot be read; nothing was changed.' || verdict.faults)
        end as fault,
    from checked
    cross join verdict
)

select * from final
