with
{% for name in ['flights', 'weather', 'planes', 'airports', 'airlines'] %}
{{ name }} as (
    select
        '{{ name }}' as source_name,
        _file as file_path,
        _line_no as line_number,
        struct_extract(_problem, 'column_name') as column_name,
        struct_extract(_problem, 'reason') as reason,
        _line as line_text,
    from {{ ref('base_' ~ name) }}
    where _problem is not null
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
order by source_name, file_path, line_number
