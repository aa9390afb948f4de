with flights as (
    select
        'flights' as source_name,
        _file as file_path,
        _line_no as line_number,
        _problem.column_name,
        _problem.reason,
        _line as line_text,
    from {{ ref('base_flights') }}
    where _problem is not null
),

weather as (
    select
        'weather' as source_name,
        _file as file_path,
        _line_no as line_number,
        _problem.column_name,
        _problem.reason,
        _line as line_text,
    from {{ ref('base_weather') }}
    where _problem is not null
),

planes as (
    select
        'planes' as source_name,
        _file as file_path,
        _line_no as line_number,
        _problem.column_name,
        _problem.reason,
        _line as line_text,
    from {{ ref('base_planes') }}
    where _problem is not null
),

airports as (
    select
        'airports' as source_name,
        _file as file_path,
        _line_no as line_number,
        _problem.column_name,
        _problem.reason,
        _line as line_text,
    from {{ ref('base_airports') }}
    where _problem is not null
),

airlines as (
    select
        'airlines' as source_name,
        _file as file_path,
        _line_no as line_number,
        _problem.column_name,
        _problem.reason,
        _line as line_text,
    from {{ ref('base_airlines') }}
    where _problem is not null
),

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
