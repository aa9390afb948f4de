{#- The world as it stood at an instant: `dbt build --vars '{as_of: 2013-06-01T00:00:00Z}'`.

    Every model reads its sources through `source()`, so this one macro is all it takes: with
    `as_of` a source holds only the records loaded at or before it, by the `loaded_at_field` that
    the source declares. A source without one cannot be limited, and is read whole;
    `hindcast audit` lists it as unaudited.

    Such a build has schemas and snapshots of its own (`generate_schema_name`, `published_path`),
    and leaves the published ones alone. Two more vars are for `hindcast audit`: `as_of_from`
    leaves out of a source what was loaded at or before an instant, given by source, and
    `as_of_world` is a folder of Parquet files to read instead of the sources. -#}
{% macro source(source_name, table_name) %}
    {%- set relation = builtins.source(source_name, table_name) -%}
    {%- set name = source_name ~ '.' ~ table_name -%}
    {%- if not execute or (not var('as_of', none) and not var('as_of_world', none)) -%}
        {{ return(relation) }}
    {%- endif -%}
    {%- set from_where = relation if not var('as_of_world', none)
        else "read_parquet('" ~ var('as_of_world') ~ "/" ~ name ~ ".parquet')" -%}
    {%- set loaded_at = loaded_at_field(source_name, table_name) -%}
    {%- set limits = [] -%}
    {%- if loaded_at and var('as_of', none) -%}
        {%- do limits.append(loaded_at ~ " <= timestamptz '" ~ as_of() ~ "'") -%}
    {%- endif -%}
    {%- set after = var('as_of_from', {}).get(name) -%}
    {%- if loaded_at and after -%}
        {%- do limits.append(loaded_at ~ " > timestamptz '" ~ as_of(after) ~ "'") -%}
    {%- endif -%}
    {{ return('(select * from ' ~ from_where
        ~ (' where ' if limits else '') ~ limits | join(' and ') ~ ')') }}
{% endmacro %}


{#- The column that says when a record of a source reached us; none: the source does not say. -#}
{% macro loaded_at_field(source_name, table_name) %}
    {%- for node in graph.sources.values()
        if node.source_name == source_name and node.name == table_name -%}
        {{ return(node.config.get('loaded_at_field') or node.loaded_at_field) }}
    {%- endfor -%}
{% endmacro %}


{#- An instant (`var('as_of')` unless given) as UTC text; refused without a time zone. -#}
{% macro as_of(given=none) %}
    {%- set text = (given or var('as_of')) | string -%}
    {%- set found = modules.re.fullmatch('[0-9-]{10}[T ][0-9:]{5,8}([.][0-9]{1,6})?(Z|[+-][0-9:]{2,5})', text) -%}
    {%- if not found -%}
        {{ exceptions.raise_compiler_error("as_of is '" ~ text ~ "'; expected an instant with its "
            ~ "time zone, such as 2013-06-01T00:00:00Z. Say --vars '{as_of: 2013-06-01T00:00:00Z}'") }}
    {%- endif -%}
    {%- set instant = modules.datetime.datetime.fromisoformat(text | replace(' ', 'T', 1)) -%}
    {{ return(instant.astimezone(modules.pytz.utc).isoformat(' ')) }}
{% endmacro %}


{#- `20130601T000000Z`: the name of an as-of build's schemas and of its snapshots' folder. -#}
{% macro as_of_stamp() %}
    {%- set stamp = as_of() | replace('+00:00', 'Z') | replace(' ', 'T') -%}
    {{ return(modules.re.sub('[-:.]', '', stamp)) }}
{% endmacro %}


{#- Where this build's snapshot goes. -#}
{% macro published_path() %}
    {%- if var('as_of', none) -%}
        {{ return(var('as_of_published', var('published_path') ~ '_as_of/' ~ as_of_stamp())) }}
    {%- endif -%}
    {{ return(var('published_path')) }}
{% endmacro %}


{#- `dbt run-operation copy_sources`: every source as it is now, one Parquet file each, in the
    order of loading, so that the files' statistics lead to what was loaded when. -#}
{% macro copy_sources(folder) %}
    {% if prepare_sources is defined %} {% do run_query(prepare_sources()) %} {% endif %}
    {% for node in graph.sources.values() %}
        {% set loaded_at = loaded_at_field(node.source_name, node.name) %}
        {% set file = folder ~ '/' ~ node.source_name ~ '.' ~ node.name ~ '.parquet' %}
        {% do run_query("copy (select * from " ~ builtins.source(node.source_name, node.name)
            ~ (" order by " ~ loaded_at if loaded_at else "")
            ~ ") to '" ~ file ~ "' (format parquet, compression zstd, row_group_size 20480)") %}
    {% endfor %}
{% endmacro %}
