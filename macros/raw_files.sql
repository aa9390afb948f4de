{#- Raw files, read line by line.

    Nothing is lost that way: each line keeps its file and number, whatever it holds, so a line
    that cannot be read ends up in quarantine and not in a parser's error. A quoted field may
    hold commas and doubled quotes, not a line break. -#}

{% macro create_raw_lines() %}
create or replace macro csv_fields(line) as
    case
        when not contains(line, '"') then string_split(line, ',')
        else list_transform(
            regexp_extract_all(line || ',', '("(?:[^"]|"")*"|[^,]*),', 1),
            lambda field: case
                when starts_with(field, '"') then replace(field[2:-2], '""', '"')
                else field
            end
        )
    end;

create or replace macro header_fault(size_bytes, text, expected) as (
    with header as (
        select string_split(replace(string_split(text, chr(10))[1], chr(13), ''), ',') as found
    ),

    compared as (
        select
            found,
            list_filter(expected, lambda name: not list_contains(found, name)) as missing,
            list_filter(found, lambda name: not list_contains(expected, name)) as unknown,
        from header
    )

    select
        case
            when size_bytes = 0
                then 'is empty; expected a header line with ' || len(expected) || ' columns.'
            when text is null or starts_with(text, chr(65279))
                then 'is not plain UTF-8 text; save it as UTF-8 without a byte-order mark.'
            when found = expected then null
            when len(found) = 1
                then 'has no comma in its header, expected ' || len(expected)
                    || ' columns with commas between them (another delimiter?).'
            when len(missing) > 0 and len(unknown) > 0
                then 'has column ' || array_to_string(unknown, ', ') || ' where '
                    || array_to_string(missing, ', ') || ' was expected (renamed?).'
            when len(missing) > 0 then 'lacks column ' || array_to_string(missing, ', ') || '.'
            when len(unknown) > 0
                then 'has unknown column ' || array_to_string(unknown, ', ')
                    || '; declare it in models/staging/_sources.yml, or drop it.'
            else 'has its columns in another order, expected '
                || array_to_string(expected, ',') || '.'
        end
    from compared
);

create or replace macro file_lines(pattern) as table
    with texts as (
        select
            filename as _file,
            try(decode(content)) as text,
        from read_blob(pattern)
    ),

    split as (
        select
            _file,
            string_split(replace(rtrim(text, chr(10) || chr(13)), chr(13), ''), chr(10)) as lines,
        from texts
    )

    select
        _file,
        unnest(generate_series(1, len(lines))) as _line_no,
        unnest(lines) as _line,
    from split;

create or replace macro raw_lines(pattern) as table
    select
        _file,
        _line_no,
        _line,
        csv_fields(_line) as _fields,
        -- for dbt's freshness; staging reads and checks the column itself
        try_cast(csv_fields(_line)[-1] as timestamptz) as _loaded_at,
    from file_lines(pattern)
    where _line_no > 1;
{% endmacro %}


{#- on-run-start: makes the functions above, and says what a plain `dbt run` will miss. -#}
{% macro prepare_sources() %}
{% if execute and flags.WHICH in ('build', 'run', 'test', 'retry', 'show', 'run-operation') %}
    {% do run_query(create_raw_lines()) %}
    {% for seed in graph.nodes.values() if seed.resource_type == 'seed' and flags.WHICH not in ('build', 'run-operation') %}
        {% if load_relation(api.Relation.create(
            database=seed.database, schema=seed.schema, identifier=seed.alias)) is none %}
            {% do log('The seed table ' ~ seed.name ~ ' is missing: run `dbt seed` first, or '
                ~ '`dbt build`, which does it all.', info=true) %}
        {% endif %}
    {% endfor %}
{% endif %}
select 1
{% endmacro %}


{#- One row per file of a source, with what is wrong with the file's shape; NULL: nothing. What
    is wrong with single rows is `parse_records`' business. A file that is as an earlier run found
    it, by its `stamp`, keeps its row and is not read, unless the project changed: then other
    columns may be expected of it. -#}
{% macro checked_files(source_name, table_name) %}
{%- set pattern = var('raw_path') ~ '/' ~ table_name ~ '/*.csv' -%}
{%- set known = execute and load_relation(this) is not none and not flags.FULL_REFRESH
    and not var('as_of', none) and changed_from() is none
    and 'stamp' in adapter.get_columns_in_relation(this) | map(attribute='name') -%}
{%- set found, changed = [], [] -%}
{%- if execute -%}
    {%- set found = run_query(
        "select file, file_stamp(file) as stamp from glob('" ~ pattern ~ "') order by file"
    ).rows -%}
    {%- set kept = run_query("select file_path || chr(10) || stamp from " ~ this
        ~ " where source_name = '" ~ table_name ~ "'").columns[0].values() | list if known else [] -%}
    {%- for row in found if row[0] ~ '\n' ~ row[1] not in kept -%}
        {%- do changed.append(row) -%}
    {%- endfor -%}
{%- endif -%}
{%- if execute and not found -%}
    select
        '{{ table_name }}' as source_name,
        '{{ pattern }}' as file_path,
        0 as size_bytes,
        '' as stamp,
        'matches no file; run `python -m landing` first.' as fault
{%- else -%}
    select
        '{{ table_name }}' as source_name,
        filename as file_path,
        size as size_bytes,
        list_extract(
            {{ text_list(changed | map(attribute=1)) }},
            list_position({{ text_list(changed | map(attribute=0)) }}, filename)
        ) as stamp,
        header_fault(
            size,
            try(decode(content)),
            ['{{ source_columns(source_name, table_name).keys() | join("', '") }}']
        ) as fault,
    from read_blob({{ text_list(changed | map(attribute=0)) }})
    {%- if known %}
    union all
    select source_name, file_path, size_bytes, stamp, fault
    from {{ this }}
    where
        source_name = '{{ table_name }}'
        and file_path in (select file from glob('{{ pattern }}'))
        and not list_contains({{ text_list(changed | map(attribute=0)) }}, file_path)
    {%- endif %}
{%- endif -%}
{% endmacro %}
