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
        try_cast(csv_fields(_line)[-1] as timestamptz) as _loaded_at,
    from file_lines(pattern)
    where _line_no > 1;
{% endmacro %}


{#- on-run-start: refuses files whose shape is wrong before any table is touched. One line a
    fault, all faults in one run. What is wrong with single rows is staging's business. -#}
{% macro prepare_sources() %}
{% if execute and flags.WHICH in ('build', 'run', 'test', 'retry', 'snapshot', 'show') %}
    {% do run_query(create_raw_lines()) %}
    {% set faults = [] %}
    {% for node in graph.sources.values() if node.source_name == 'raw' %}
        {% do faults.extend(source_faults(node)) %}
    {% endfor %}
    {% for seed in graph.nodes.values() if seed.resource_type == 'seed' and flags.WHICH != 'build' %}
        {% if load_relation(api.Relation.create(
            database=seed.database, schema=seed.schema, identifier=seed.alias)) is none %}
            {% do faults.append(
                'seed table ' ~ seed.name ~ ' is missing: run `dbt seed` first (or `dbt build`).') %}
        {% endif %}
    {% endfor %}
    {% if faults %}
        {% do exceptions.raise_compiler_error(
            'the raw data cannot be read; nothing was changed.\n  ' ~ faults | join('\n  ')) %}
    {% endif %}
{% endif %}
select 1
{% endmacro %}


{% macro source_faults(node) %}
    {% set pattern = var('raw_path') ~ '/' ~ node.identifier ~ '/*.csv' %}
    {% set expected = node.columns.keys() | list %}
    {% set faults = [] %}
    {% set rows = run_query(
        "with texts as (
            select filename, size, try(decode(content)) as text from read_blob('" ~ pattern ~ "')
        )
        select
            filename,
            size,
            text is null as is_undecodable,
            string_split(replace(text, chr(13), ''), chr(10))[1] as header
        from texts
        where header is distinct from '" ~ expected | join(',') ~ "'
        order by filename"
    ).rows if raw_file_count(pattern) else none %}
    {% if rows is none %}
        {% do faults.append('no file matches ' ~ pattern ~ ': run `python -m landing` first.') %}
    {% endif %}
    {% for file, size, is_undecodable, header in rows or [] %}
        {% set found = (header or '').split(',') %}
        {% set missing = expected | reject('in', found) | list %}
        {% set unknown = found | reject('in', expected) | list %}
        {% if size == 0 %}
            {% set fault = 'is empty; expected a header line with ' ~ expected | length ~ ' columns.' %}
        {% elif is_undecodable or header.startswith('\ufeff') %}
            {% set fault = 'is not plain UTF-8 text; save it as UTF-8 without a byte-order mark.' %}
        {% elif found | length == 1 and expected | length > 1 %}
            {% set fault = 'has no comma in its header; expected comma-separated columns '
                ~ 'starting with "' ~ expected[:3] | join(',') ~ '" (wrong delimiter?).' %}
        {% elif missing and unknown %}
            {% set fault = 'has column ' ~ unknown | join(', ') ~ ' where '
                ~ missing | join(', ') ~ ' was expected (renamed?).' %}
        {% elif missing %}
            {% set fault = 'lacks column ' ~ missing | join(', ') ~ '.' %}
        {% elif unknown %}
            {% set fault = 'has unknown column ' ~ unknown | join(', ')
                ~ '; declare it in models/staging/_sources.yml or drop it.' %}
        {% else %}
            {% set fault = 'has its columns in another order; expected '
                ~ expected | join(',') ~ '.' %}
        {% endif %}
        {% do faults.append(file ~ ' ' ~ fault) %}
    {% endfor %}
    {{ return(faults) }}
{% endmacro %}


{% macro raw_file_count(pattern) %}
    {{ return(run_query("select count(*) from glob('" ~ pattern ~ "')").rows[0][0]) }}
{% endmacro %}
