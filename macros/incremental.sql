{#- Builds that cost what changed, and equal a full rebuild bit for bit.

    What a record loaded at L can change is known at L or later: that is this project's promise,
    and here it is the bound. Each base model compares the lines of changed files with those it
    has, and notes in `hindcast.pending`, in the transaction that takes them in, the least
    `_loaded_at` of all that differ. A model downstream keeps its rows from before that instant,
    and builds those from it on: `since()` is the filter, `rebuild_since` the strategy.

    Notes stay until a run in which every model succeeded, so that one that failed, was killed or
    built only some models is made good by the next. Where no bound holds, the note is for
    -infinity, which is `--full-refresh`: on a first build, when the project itself changed, when
    a record that was used is gone, and when a source changed that is joined without regard to time
    (`meta: {rebuilds: everything}`). docs/incremental.md has the whole of it. -#}

{#- on-run-start: makes the tables of notes; a changed project is a reason to rebuild all. -#}
{% macro prepare_increments() %}
{% if execute and flags.WHICH in ('build', 'run', 'retry', 'seed') and not var('as_of', none) %}
    {% set notes = notes_schema() %}
    {% do run_query('create schema if not exists ' ~ notes) %}
    {% do run_query('create table if not exists ' ~ notes ~ '.files '
        ~ '(source_name varchar, file_path varchar, stamp varchar)') %}
    {% do run_query('create table if not exists ' ~ notes ~ '.pending (source_name varchar, '
        ~ 'changed_from timestamptz, reason varchar)') %}
    {% do run_query('create table if not exists ' ~ notes ~ '.project (fingerprint varchar)') %}
    {% do run_query('create table if not exists ' ~ notes ~ '.unpublished (source_name varchar, '
        ~ 'changed_from timestamptz)') %}
    {% do run_query('create table if not exists ' ~ notes ~ '.untested (source_name varchar, '
        ~ 'changed_from timestamptz)') %}
    {% do run_query('create table if not exists ' ~ notes ~ '.published (snapshot_id varchar)') %}
    {% set fingerprint = project_fingerprint() %}
    {% set known = run_query("select 1 from " ~ notes ~ ".project where fingerprint = '"
        ~ fingerprint ~ "'") | length %}
    {% if flags.WHICH == 'seed' or not known %}
        {#- noted before it is remembered: a run that dies in between notes it again -#}
        {% do run_query(note_changed('*', "'-infinity'", "'the project changed'")) %}
        {% do run_query('begin; delete from ' ~ notes ~ '.project; insert into ' ~ notes
            ~ ".project values ('" ~ fingerprint ~ "'); commit") %}
    {% endif %}
{% endif %}
select 1
{% endmacro %}


{% macro notes_schema() %}
    {{ return(generate_schema_name('hindcast', none)) }}
{% endmacro %}


{% macro note_changed(source_name, changed_from, reason) -%}
    insert into {{ notes_schema() }}.pending
    select '{{ source_name }}', {{ changed_from }}::timestamptz, {{ reason }}
{%- endmacro %}


{#- All that the SQL of this project is made of, the vars given on the command line, and what runs
    it: the versions of dbt, its adapter and DuckDB, and the settings by which DuckDB gives other
    results. Not those that say how much memory or how many threads it may have. -#}
{% macro project_fingerprint() %}
    {% set folders = ['models', 'macros', 'seeds'] %}
    {% set globs = [] %}
    {% for folder in folders %} {% do globs.append("select file from glob('" ~ folder ~ "/**')") %} {% endfor %}
    {% set files = run_query(globs | join(' union all ')).columns[0].values() | list + ['dbt_project.yml'] %}
    {% set given = dict(invocation_args_dict.get('vars') or {}) %}
    {% for name in ['publish', 'published_path', 'keep_snapshots', 'raw_path'] %}
        {% do given.pop(name, none) %}
    {% endfor %}
    {% set settings = ['Calendar', 'TimeZone', 'binary_as_string', 'default_collation', 'default_null_order',
        'default_order', 'disable_timestamptz_casts', 'ieee_floating_point_ops', 'integer_division',
        'old_implicit_casting', 'order_by_non_integer_literal', 'preserve_insertion_order',
        'scalar_subquery_error_on_multiple_rows'] %}
    {{ return(run_query("select md5(string_agg(filename || md5(content), '' order by filename)"
        ~ " || '" ~ local_md5(tojson(given, sort_keys=true)) ~ "' || version() || dbt_versions() || ("
        ~ "select string_agg(name || '=' || coalesce(value, ''), ' ' order by name) "
        ~ "from duckdb_settings() where name in ('" ~ settings | join("', '") ~ "'))"
        ~ ") from read_blob(['" ~ files | join("', '") ~ "'])").rows[0][0]) }}
{% endmacro %}


{#- The instant from which this model's rows are to be built again, as text; '-infinity': all of
    them; none: nothing that it is made of changed.

    Only notes about the model's own sources count, and all of those are made before it starts. So
    it is asked once, and kept in `graph`, the one thing that lasts as long as the run does. -#}
{% macro changed_from() %}
    {% set asked = invocation_id ~ ' ' ~ model.unique_id %}
    {% set answers = graph.setdefault('changed_from', {}) %}
    {% if asked not in answers %} {% do answers.update({asked: read_notes()}) %} {% endif %}
    {{ return(answers[asked]) }}
{% endmacro %}


{% macro read_notes() %}
    {{ return(noted_from(model.unique_id, ['pending']) if increments_are_noted() else '-infinity') }}
{% endmacro %}


{% macro increments_are_noted() %}
    {{ return(not var('as_of', none) and not var('as_of_world', none) and run_query(
        "select 1 from duckdb_tables() where database_name = current_database() "
        ~ "and schema_name = '" ~ notes_schema() ~ "' and table_name = 'untested'") | length == 1) }}
{% endmacro %}


{#- The earliest instant that some tables of notes have for the sources of a model, as text. -#}
{% macro noted_from(unique_id, tables) %}
    {% set sources = ['*'] %}
    {% do add_sources_of(unique_id, sources, []) %}
    {% set notes = [] %}
    {% for table in tables %}
        {% do notes.append('select source_name, changed_from from ' ~ notes_schema() ~ '.' ~ table) %}
    {% endfor %}
    {#- with a letter in front, or agate would make a time of the text -#}
    {% set found = run_query("select 'T' || min(changed_from)::varchar from ("
        ~ notes | join(' union all ') ~ ") where source_name in ('" ~ sources | join("', '") ~ "')"
        ).rows[0][0] %}
    {{ return(found[1:] if found else none) }}
{% endmacro %}


{% macro add_sources_of(unique_id, sources, seen) %}
    {% do seen.append(unique_id) %}
    {% for parent in graph.nodes[unique_id].depends_on.nodes if parent not in seen %}
        {% if parent.startswith('source.') %}
            {% do sources.append(parent.split('.')[-2:] | join('.')) %}
        {% elif parent in graph.nodes %}
            {% do add_sources_of(parent, sources, seen) %}
        {% endif %}
    {% endfor %}
{% endmacro %}


{#- A condition on the rows of a model with `meta.told_of_by`: a message that meets `condition` tells
    of their key. -#}
{% macro told_of_by_messages(node, condition) %}
    {%- set key, messages = node.config.get('unique_key'), node.config.get('meta', {}).get('told_of_by') -%}
    {%- for model in graph.nodes.values() if model.resource_type == 'model' and model.name == messages -%}
        {{ return(key ~ ' in (select ' ~ key ~ ' from ' ~ model.relation_name ~ ' where ' ~ condition ~ ')') }}
    {%- endfor -%}
    {{ exceptions.raise_compiler_error(node.name ~ ': meta.told_of_by names ' ~ messages
        ~ ', and there is no such model') }}
{% endmacro %}


{#- dbt asks this whether to rebuild a table from nothing. -#}
{% macro should_full_refresh() %}
    {% set wanted = config.get('full_refresh') %}
    {% if wanted is none %} {% set wanted = flags.FULL_REFRESH %} {% endif %}
    {% if wanted or not execute or config.get('materialized') != 'incremental' %}
        {{ return(wanted) }}
    {% endif %}
    {{ return(var('as_of', none) is not none or var('as_of_world', none) is not none
        or changed_from() == '-infinity') }}
{% endmacro %}


{#- Whether this build of the model adds to what is there. dbt's own `is_incremental` cannot be asked
    in a unit test, where there is no table. -#}
{% macro is_increment() %}
    {{ return(execute and model.resource_type == 'model' and is_incremental()) }}
{% endmacro %}


{#- A condition: `column` is at or after the instant from which this model is built again, less
    each interval of `lookback`. True where all of it is built. -#}
{% macro since(column, lookback=[]) -%}
    {%- if not is_increment() -%} true
    {%- else -%}
        {%- set instant = changed_from() -%}
        {%- if instant is none -%} false
        {%- else -%}
            {{ column }} >= timestamptz '{{ instant }}'
            {%- for span in lookback %} - interval '{{ span }}'{% endfor %}
        {%- endif -%}
    {%- endif -%}
{%- endmacro %}


{#- The strategy of a model whose rows say when they were known: rows from the instant on give way
    to the new ones. `meta.known_by` names that column, `known_at` if not given. -#}
{% macro get_incremental_rebuild_since_sql(arguments) %}
    {%- set columns = get_quoted_csv(arguments.dest_columns | map(attribute='name')) -%}
    delete from {{ arguments.target_relation }}
    where {{ since(config.get('meta', {}).get('known_by', 'known_at')) }};

    insert into {{ arguments.target_relation }} ({{ columns }})
    select {{ columns }} from {{ arguments.temp_relation }}
{% endmacro %}


{#- The strategy of a base model: of the lines that changed, and of those that share their
    `_loaded_at`, since a repeated record is judged by its first. -#}
{% macro get_incremental_changed_lines_sql(arguments) %}
    {%- set target = arguments.target_relation -%}
    {%- set temp = arguments.temp_relation -%}
    {%- set columns = get_quoted_csv(arguments.dest_columns | map(attribute='name')) -%}
    {%- set meta = config.get('meta') -%}
    {%- set diff = changed_lines_table(meta.source_table) -%}
    {%- set key = (meta.record_key + ['_loaded_at']) | join(', ') -%}
    {%- set values = columns_of_source(meta.source_name, meta.source_table) | join(', ') -%}
    {%- set name = meta.source_name ~ '.' ~ meta.source_table -%}
    {%- set rebuilds_all = source_meta(meta.source_name, meta.source_table).get('rebuilds') == 'everything' -%}
    create or replace temp view judged_before as
    select {{ values }} from ({{ touched_lines(target, '*', diff) }}) where _problem is null;

    create or replace temp view judged_now as
    select {{ values }} from {{ temp }} where _problem is null;

    insert into {{ notes_schema() }}.pending
    with changed as (
        (from judged_before except from judged_now)
        union all
        (from judged_now except from judged_before)
    ),

    gone as (
        (select {{ key }} from judged_before)
        except
        (select {{ key }} from judged_now)
    )

    select
        '{{ name }}',
        case
            when {{ rebuilds_all }} or exists (from gone) then '-infinity'
            else min(_loaded_at)
        end,
        case
            when {{ rebuilds_all }} then 'joined without regard to time'
            when exists (from gone) then 'a record is gone'
            else 'new records'
        end
    from changed
    having count(*) > 0;

    delete from {{ target }} where rowid in ({{ touched_lines(target, 'rowid', diff) }});

    insert into {{ target }} ({{ columns }}) select {{ columns }} from {{ temp }};

    {{ remember_files(meta.source_table) }}
{% endmacro %}


{% macro changed_lines_table(table_name) %}
    {{ return(notes_schema() ~ '.changed_lines_' ~ table_name) }}
{% endmacro %}


{#- The lines of a base model that changed, or might be judged anew. A line that changed is among
    the differences with its own `_loaded_at`, so only one that has none is looked for by its place:
    apart, since by load time DuckDB passes over all of history, and with an `or` it does not. -#}
{% macro touched_lines(relation, columns, diff) -%}
    select {{ columns }} from {{ relation }}
    where _loaded_at in (select _loaded_at from {{ diff }})
    union all
    select {{ columns }} from {{ relation }}
    where _loaded_at is null and (_file, _line_no) in (select (_file, _line_no) from {{ diff }})
{%- endmacro %}


{#- Finds the lines of a source that are not as the base model has them; gives the files to read. -#}
{% macro find_changed_lines(source_name, table_name) %}
    {% set diff = changed_lines_table(table_name) %}
    {% set changed = "with now as (select file_path, stamp from " ~ ref('raw_files')
        ~ " where source_name = '" ~ table_name ~ "'), before as (select file_path, stamp from "
        ~ notes_schema() ~ ".files where source_name = '" ~ table_name ~ "') " %}
    {% set new = run_query(changed ~ "select file_path from (from now except from before)"
        ).columns[0].values() | list %}
    {% set old = run_query(changed ~ "select distinct file_path from ((from now except from before)"
        ~ " union all (from before except from now))").columns[0].values() | list %}
    {% set columns = source_columns(source_name, table_name) %}
    {% set position = (columns.keys() | list).index('_loaded_at') + 1 %}
    {% do run_query(
        "create or replace table " ~ diff ~ " as with now as (select _file, _line_no, _line, "
        ~ field_text(position) ~ " as _loaded_at_text from " ~ lines_of(new) ~ "), "
        ~ "read as (select _file, _line_no, _line, " ~ cast_text(columns['_loaded_at'])
        ~ " as _loaded_at from now), "
        ~ "before as (select _file, _line_no, _line, _loaded_at from " ~ this
        ~ " where list_contains(" ~ text_list(old) ~ ", _file)) "
        ~ "select * exclude (_line) from ((from read except from before)"
        ~ " union all (from before except from read))"
    ) %}
    {{ return(run_query(
        "select distinct file_path from " ~ ref('raw_files') ~ " where source_name = '"
        ~ table_name ~ "' and (list_contains(" ~ text_list(new) ~ ", file_path) or file_path in "
        ~ "(select _file from " ~ this ~ " where _loaded_at in (select _loaded_at from " ~ diff
        ~ "))) order by file_path"
    ).columns[0].values() | list) }}
{% endmacro %}


{#- pre-hook of a base model: when all of its source is read, that is what it consists of. -#}
{% macro note_full_read(source_name, table_name) %}
{% if execute and not is_increment() and not var('as_of', none) and not var('as_of_world', none) %}
    {{ note_changed(source_name ~ '.' ~ table_name, "'-infinity'", "'read anew'") }};
    {{ remember_files(table_name) }}
{% endif %}
{% endmacro %}


{#- The files as `raw_files` found them, which is before they were read. One that changed in
    between is read again by the next run. -#}
{% macro remember_files(table_name) %}
    delete from {{ notes_schema() }}.files where source_name = '{{ table_name }}';
    {% if load_relation(ref('raw_files')) is not none %}
    insert into {{ notes_schema() }}.files
    select source_name, file_path, stamp from {{ ref('raw_files') }}
    where source_name = '{{ table_name }}'
    {% endif %}
{% endmacro %}


{#- on-run-end: after a run in which every model succeeded, what was noted is done, and left to be
    published. -#}
{% macro forget_changes(results) %}
{% if execute and flags.WHICH in ('build', 'run', 'retry') and not flags.EMPTY and not var('as_of', none) %}
    {% set done = results | selectattr('status', 'equalto', 'success') | map(attribute='node.unique_id') | list %}
    {% set models = graph.nodes.values() | selectattr('resource_type', 'equalto', 'model')
        | map(attribute='unique_id') | reject('in', done) | list %}
    {% if not models %}
        {% set notes = notes_schema() %}
        {% do run_query('begin; create or replace table ' ~ notes ~ '.unpublished as '
            ~ 'select source_name, min(changed_from) as changed_from from '
            ~ '(select source_name, changed_from from ' ~ notes ~ '.pending union all '
            ~ 'select source_name, changed_from from ' ~ notes ~ '.unpublished) group by all; '
            ~ 'delete from ' ~ notes ~ '.pending; commit') %}
    {% endif %}
{% endif %}
select 1
{% endmacro %}


{% macro text_list(texts) -%}
    [{% for text in texts %}'{{ text | replace("'", "''") }}'{{ ', ' if not loop.last }}{% endfor %}]::varchar[]
{%- endmacro %}


{% macro lines_of(files) -%} raw_lines({{ text_list(files) }}) {%- endmacro %}


{% macro columns_of_source(source_name, table_name) %}
    {{ return(source_columns(source_name, table_name).keys() | list) }}
{% endmacro %}


{% macro source_meta(source_name, table_name) %}
    {%- for node in graph.sources.values()
        if node.source_name == source_name and node.name == table_name -%}
        {{ return(node.config.get('meta') or node.meta) }}
    {%- endfor -%}
{% endmacro %}
