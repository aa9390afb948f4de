{#- Turns the raw lines of one source into typed columns, or a reason why not.

    Column types and limits come from the source's YAML. `key` and `_loaded_at` identify a
    record: one that comes a second time (a file delivered twice) goes to quarantine too, unless
    what came before could not be read.
    Adds `_file`, `_line_no`, `_line`, and `_problem`: a struct (column_name, reason), NULL
    for a good row. `checks` are rules on whole rows: dicts of `when`, `column` and `reason`. -#}
{% macro parse_records(source_name, table_name, key, checks=[]) %}
{{
    config(
        materialized='incremental',
        incremental_strategy='changed_lines',
        meta={'source_name': source_name, 'source_table': table_name, 'record_key': key},
        pre_hook="{{ note_full_read('" ~ source_name ~ "', '" ~ table_name ~ "') }}",
    )
}}
{%- set columns = source_columns(source_name, table_name) -%}
{%- set all_lines = source(source_name, table_name) -%}
{%- set increment = is_increment() -%}
-- depends_on: {{ ref('raw_files') }}
with lines as (
    select * from {{ lines_of(find_changed_lines(source_name, table_name)) if increment else all_lines }}
),

named as (
    select
        _file,
        _line_no,
        _line,
        len(_fields) as _field_count,
        {%- for column in columns.values() %}
        {{ field_text(loop.index) }} as {{ column.name }}_text,
        {%- endfor %}
    from lines
),

typed as (
    select
        *,
        {%- for column in columns.values() %}
        {{ cast_text(column) }} as {{ column.name }},
        {%- endfor %}
    from named
),

judged as (
    select
        *,
        case
            when _field_count != {{ columns | length }} then {'column_name': null, 'reason':
                'has ' || _field_count || ' fields, expected {{ columns | length }} (line cut off?)'}
            {%- for column in columns.values() %}
            {{ column_problems(column) }}
            {%- endfor %}
            {%- for check in checks %}
            when {{ check.when }} then {'column_name': '{{ check.column }}', 'reason': '{{ check.reason }}'}
            {%- endfor %}
        end as _fault,
    from typed
),

-- a line with a fault is no record, so it does not make a repetition of a later one
numbered as (
    select
        *,
        row_number() over same_record as _copy,
        first_value(_file || ':' || _line_no) over same_record as _first_seen,
    from judged
    window same_record as (
        partition by {{ key | join(', ') }}, _loaded_at, _fault is null order by _file, _line_no
    )
)

select
    _file,
    _line_no,
    _line,
    {%- for column in columns.values() %}
    {{ column.name }},
    {%- endfor %}
    case
        when _fault is not null then _fault
        when _copy > 1 then {'column_name': null, 'reason':
            'repeats the record of ' || _first_seen}
    end as _problem,
from {% if increment %}({{ touched_lines('numbered', '*', changed_lines_table(table_name)) }}){% else %}numbered{% endif %}
{% endmacro %}


{#- The text of a line's nth field; NULL where it is empty or NA. -#}
{% macro field_text(position) -%}
    nullif(nullif(trim(_fields[{{ position }}]), 'NA'), '')
{%- endmacro %}


{#- The declared columns of a source, in the order of its files. -#}
{% macro source_columns(source_name, table_name) %}
    {% if execute %}
        {% for node in graph.sources.values()
            if node.source_name == source_name and node.name == table_name %}
            {{ return(node.columns) }}
        {% endfor %}
    {% endif %}
    {{ return({}) }}
{% endmacro %}


{% macro cast_text(column) %}
    {%- set text = column.name ~ '_text' -%}
    {%- if column.data_type == 'varchar' -%} {{ text }}
    {%- elif column.data_type == 'hhmm' -%}
        case
            when regexp_full_match({{ text }}, '[0-9]{1,4}')
                and {{ text }}::integer <= 2400 and {{ text }}::integer % 100 < 60
                then {{ text }}::integer
        end
    {%- elif column.data_type in ('integer', 'bigint') -%}
        case
            when regexp_full_match({{ text }}, '[+-]?[0-9]+')
                then try_cast({{ text }} as {{ column.data_type }})
        end
    {%- elif column.data_type == 'double' -%}
        case
            when isfinite(try_cast({{ text }} as double)) then try_cast({{ text }} as double)
        end
    {%- elif column.data_type == 'timestamptz' -%}
        case
            when regexp_matches({{ text }}, '(Z|[+-][0-9]{2}(:?[0-9]{2})?)$')
                then try_cast({{ text }} as timestamptz)
        end
    {%- else -%} try_cast({{ text }} as {{ column.data_type }})
    {%- endif -%}
{% endmacro %}


{#- `when … then …` branches for what can be wrong with one column. -#}
{% macro column_problems(column) %}
    {%- set meta = column.config.meta or column.meta -%}
    {%- set name = column.name -%}
    {%- set expected = {
        'hhmm': 'a clock time hhmm from 0 to 2400', 'integer': 'a whole number',
        'bigint': 'a whole number', 'double': 'a number',
        'timestamptz': 'a UTC time like 2013-01-31T12:00:00Z'
    } -%}
    {%- if column.data_type != 'varchar' %}
        when {{ name }}_text is not null and {{ name }} is null then {'column_name': '{{ name }}',
            'reason': 'found "' || {{ name }}_text || '", expected {{ expected[column.data_type] }}'}
    {%- endif %}
    {%- if meta.get('required') %}
        when {{ name }} is null then {'column_name': '{{ name }}', 'reason':
            'is missing, and must not be'}
    {%- endif %}
    {%- if 'min' in meta %}
        when {{ name }} < {{ meta['min'] }} then {'column_name': '{{ name }}', 'reason':
            'found ' || {{ name }}_text || ', expected at least {{ meta["min"] }}'}
    {%- endif %}
    {%- if 'max' in meta %}
        when {{ name }} > {{ meta['max'] }} then {'column_name': '{{ name }}', 'reason':
            'found ' || {{ name }}_text || ', expected at most {{ meta["max"] }}'}
    {%- endif %}
    {%- if 'accepted' in meta %}
        when {{ name }} not in ('{{ meta["accepted"] | join("', '") }}') then {'column_name':
            '{{ name }}', 'reason': 'found "' || {{ name }} || '", expected one of {{ meta["accepted"] | join(", ") }}'}
    {%- endif %}
{% endmacro %}
