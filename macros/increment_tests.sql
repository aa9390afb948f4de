{#- Data tests that cost what changed: `dbt build` tests the rows that passed no tests yet.

    `hindcast.untested` says, by source, from which instant on those are. A run in which every data
    test passed empties it (those tagged `whole` excepted: they are often left out). All rows are
    tested by `dbt test`, a first build and --full-refresh. So are they by a test whose answer for a
    row depends on others by more than their key, and in models that are not rebuilt from an
    instant on. -#}

{#- dbt asks this what a generic test reads. -#}
{% macro get_where_subquery(relation) -%}
    {%- set conditions = [config.get('where')] if config.get('where') else [] -%}
    {%- if execute and model.attached_node in graph.nodes -%}
        {%- set tested = graph.nodes[model.attached_node] -%}
        {%- do conditions.append(looked_at(relation, model.test_metadata, tested)) -%}
    {%- endif -%}
    {%- set needed = conditions | reject('equalto', 'true') | list -%}
    {{ return('(select * from ' ~ relation ~ ' where ' ~ needed | join(' and ') ~ ') as looked_at'
        if needed else relation) }}
{%- endmacro %}


{#- The column of a model that tells which of its rows may have been built again: the time they were
    known, where rows from before an instant stand (a view that reads such a model says so by naming
    that column in `meta.known_by`), or the key, where `meta.told_of_by` names the model of messages
    that it is built from. None: any of them may have been. -#}
{% macro dated_by(node) %}
    {%- set meta = node.config.get('meta', {}) -%}
    {%- if node.config.get('incremental_strategy') == 'rebuild_since'
        or (node.config.materialized == 'view' and 'known_by' in meta) -%}
        {{ return(meta.get('known_by', 'known_at')) }}
    {%- endif -%}
    {{ return(node.config.get('unique_key') if 'told_of_by' in meta else none) }}
{% endmacro %}


{#- A condition: the row may have been built since all tests passed. -#}
{% macro is_new(node) %}
    {%- set column = dated_by(node) -%}
    {%- if column is none -%} {{ return('true') }}
    {%- elif 'told_of_by' not in node.config.get('meta', {}) -%} {{ return(untested(column)) }}
    {%- endif -%}
    {%- set told = untested('_loaded_at') -%}
    {{ return(told if told in ('true', 'false') else told_of_by_messages(node, told)) }}
{% endmacro %}


{#- The rows a generic test has to look at: the new ones, where it looks at rows alone; for a key,
    those that share it too (one that is NULL is for `not_null`); else all. -#}
{% macro looked_at(relation, test, node) %}
    {%- set given = test.kwargs -%}
    {%- set key = given.get('columns') or [given.get('column_name')] -%}
    {%- set new = is_new(node) -%}
    {%- if new in ('true', 'false') and test.name in ('unique', 'unique_combination')
        or test.name in ('not_null', 'accepted_values', 'relationships') or dated_by(node) in key -%}
        {{ return(new) }}
    {%- elif test.name in ('unique', 'unique_combination') -%}
        {{ return('(' ~ key | join(', ') ~ ') in (select ' ~ key | join(', ') ~ ' from ' ~ relation
            ~ ' where ' ~ new ~ ')') }}
    {%- endif -%}
    {{ return('true') }}
{% endmacro %}


{#- A condition for tests: `column` is at or after the instant from which rows are untested. -#}
{% macro untested(column) -%}
    {%- set instant = untested_from() -%}
    {{ return('true' if instant == '-infinity' else 'false' if instant is none
        else column ~ " >= timestamptz '" ~ instant ~ "'") }}
{%- endmacro %}


{% macro untested_from() %}
    {% if not execute or flags.WHICH != 'build' or flags.FULL_REFRESH or not increments_are_noted() %}
        {{ return('-infinity') }}
    {% endif %}
    {{ return(noted_from(model.unique_id, ['pending', 'untested'])) }}
{% endmacro %}


{#- on-run-end: what this run built is untested, unless every test passed. Comes before
    `forget_changes`, which forgets what was built. -#}
{% macro note_untested(results) %}
{% if execute and flags.WHICH in ('build', 'run', 'retry', 'test') and not flags.EMPTY
    and increments_are_noted() %}
    {% set notes = notes_schema() %}
    {% set passed = results | selectattr('status', 'in', ['pass', 'warn'])
        | map(attribute='node.unique_id') | list %}
    {% set open = [] %}
    {% for node in graph.nodes.values()
        if node.resource_type == 'test' and 'whole' not in node.tags and node.unique_id not in passed %}
        {% do open.append(node.unique_id) %}
    {% endfor %}
    {% if open %}
        {% do run_query('create or replace table ' ~ notes ~ '.untested as '
            ~ 'select source_name, min(changed_from) as changed_from from ('
            ~ 'select source_name, changed_from from ' ~ notes ~ '.pending union all '
            ~ 'select source_name, changed_from from ' ~ notes ~ '.untested) group by all') %}
    {% else %}
        {% do run_query('delete from ' ~ notes ~ '.untested') %}
    {% endif %}
{% endif %}
select 1
{% endmacro %}
