{#- on-run-end: a build in which everything succeeded is published as one snapshot.

    Published are the feature views and every model with `meta.publish_order`. A run that built
    only some of them publishes nothing, since the tables would come from different builds; nor
    does one with a failure.

    A table is a directory `<model>.parquet` with one file per month, so that publishing costs what
    changed since the previous snapshot: files of earlier months are that one's (hard links). What
    changed is known from the notes of `macros/incremental.sql`. -#}
{% macro publish_snapshot(results) %}
{% if execute and flags.WHICH in ('build', 'run') and not flags.EMPTY and var('publish', true) %}
    {% set wanted = published_models() %}
    {% set failed = results | selectattr('status', 'in', ['error', 'fail', 'skipped', 'runtime error']) | list %}
    {% set built = results | selectattr('status', 'equalto', 'success') | map(attribute='node.unique_id') | list %}
    {% set missing = wanted | map(attribute='node.unique_id') | reject('in', built) | list %}
    {% if failed %}
        {% do log('Nothing published: ' ~ failed | length ~ ' of ' ~ results | length
            ~ ' steps did not succeed. The previous snapshot stays.', info=true) %}
    {% elif missing %}
        {% do log('Nothing published: this run built ' ~ (wanted | length - missing | length)
            ~ ' of ' ~ wanted | length ~ ' published tables. `dbt build` builds and publishes all.',
            info=true) %}
    {% else %}
        {% do write_snapshot(wanted) %}
    {% endif %}
{% endif %}
select 1
{% endmacro %}


{% macro write_snapshot(wanted) %}
    {% set id = run_started_at.strftime('%Y%m%dT%H%M%SZ') ~ '-' ~ invocation_id[:8] %}
    {% set previous = published_before() %}
    {% set staging = run_query(
        "select snapshot_begin('" ~ published_path() ~ "', '" ~ id ~ "')").rows[0][0] %}
    {% set tables, changed, written = {}, {}, [] %}
    {% for item in wanted %}
        {% set table = write_table(item, staging, previous) %}
        {% do tables.update({item.node.name: table.rows}) %}
        {% do changed.update({item.node.name: table.changed_from}) %}
        {% do written.append(table.written) %}
    {% endfor %}
    {% set description = {
        'tables': tables,
        'previous': previous,
        'changed_from': changed,
        'dbt_invocation_id': invocation_id,
        'dbt_target': target.name,
    } %}
    {% do run_query("select snapshot_publish('" ~ staging ~ "', '"
        ~ tojson(description) | replace("'", "''") ~ "', " ~ var('keep_snapshots') ~ ")") %}
    {% do remember_published(id) %}
    {% do log('Published snapshot ' ~ id ~ ': ' ~ tables | length ~ ' tables, '
        ~ '{:,}'.format(tables.values() | sum) ~ ' rows, '
        ~ '{:,}'.format(written | sum) ~ ' of them written.', info=true) %}
{% endmacro %}


{#- Writes one table of a snapshot: a directory with a file per month. Months that end before the
    first change since the previous snapshot are that one's files. -#}
{% macro write_table(item, staging, previous) %}
    {% set relation = api.Relation.create(
        database=item.node.database, schema=item.node.schema, identifier=item.node.alias) %}
    {% set folder = staging ~ '/' ~ item.node.name ~ '.parquet' %}
    {% set order = item.sort | join(', ') %}
    {% set changed_from = unpublished_from(item, relation, previous) %}
    {% set rewritten_from = '~' if changed_from is none
        else '' if changed_from == '-infinity' else changed_from[:7] %}
    {% set linked = run_query("select snapshot_reuse('" ~ folder ~ "', '" ~ (previous or '') ~ "', '"
        ~ rewritten_from ~ "')").rows[0][0] %}
    {% if linked < 0 %} {% set changed_from, rewritten_from = '-infinity', '' %} {% endif %}

    {% set month = "date_trunc('month', " ~ item.period ~ ")" if item.period else 'null' %}
    {% set parts = [] if changed_from is none else run_query(
        "select distinct 'M' || left(" ~ month ~ "::varchar, 7) as part from " ~ relation
        ~ (" where " ~ item.period ~ " >= timestamptz '" ~ rewritten_from ~ "-01 00:00:00+00'"
            if rewritten_from else "") ~ " order by part").columns[0].values() %}
    {% set written = [] %}
    {% for part in parts or ([] if linked > 0 else [none]) %}
        {% set start = "timestamptz '" ~ (part or '')[1:] ~ "-01 00:00:00+00'" %}
        {% do written.append(run_query("copy (select * from " ~ relation ~ (" where " ~ item.period
            ~ " >= " ~ start ~ " and " ~ item.period ~ " < " ~ start ~ " + interval 1 month"
            if part else "") ~ " order by " ~ order ~ ") to '" ~ folder ~ "/" ~ (part[1:] if part else 'all')
            ~ ".parquet' (format parquet, compression zstd)").rows[0][0] | int) %}
    {% endfor %}

    {% set found = run_query("select (select count(*) from " ~ relation
        ~ "), (select count(*) from read_parquet('" ~ folder ~ "'))").rows[0] %}
    {% if found[0] != found[1] %}
        {{ exceptions.raise_compiler_error(item.node.name ~ ' has ' ~ found[0] ~ ' rows, and '
            ~ found[1] ~ ' of them would be published. Each needs a ' ~ item.period ~ ' that is an '
            ~ 'instant; where all have one, run `dbt build --full-refresh`, and tell us.') }}
    {% endif %}
    {{ return({'rows': found[0] | int, 'written': written | sum, 'changed_from': changed_from}) }}
{% endmacro %}


{#- The snapshot that was last published of this warehouse; none where increments are not noted. -#}
{% macro published_before() %}
    {% if increments_are_noted is not defined or not increments_are_noted() %}
        {{ return(none) }}
    {% endif %}
    {% set found = run_query("select 'S' || snapshot_id from " ~ notes_schema() ~ '.published') %}
    {{ return(found.rows[0][0][1:] if found | length else none) }}
{% endmacro %}


{#- The instant (of `item.period`) from which a table is other than in the previous snapshot, as
    text; '-infinity': all of it; none: none of it. -#}
{% macro unpublished_from(item, relation, previous) %}
    {#- what no time divides is written whole: notes tell of records, and it may count other lines too -#}
    {% if not (previous and item.period) %} {{ return('-infinity') }} {% endif %}
    {% set instant = noted_from(item.node.unique_id, ['pending', 'unpublished']) %}
    {% if instant in (none, '-infinity') or item.period == 'known_at' %} {{ return(instant) }} {% endif %}
    {#- rows that are not known from an instant on, but belong to something that was told of -#}
    {% set messages = item.node.config.get('meta', {}).get('told_of_by') %}
    {% set key = item.node.config.get('unique_key') %}
    {% set before = published_path() ~ '/' ~ previous ~ '/' ~ item.node.name ~ '.parquet' %}
    {% if not (messages and key)
        or not run_query("from glob('" ~ before ~ "/*')") | length %} {{ return('-infinity') }} {% endif %}
    {% set of_those = " where " ~ told_of_by_messages(
        item.node, "_loaded_at >= timestamptz '" ~ instant ~ "'") %}
    {% set rows = "select " ~ item.period ~ " from " %}
    {% set found = run_query("select 'T' || min(" ~ item.period ~ ")::varchar from ("
        ~ rows ~ relation ~ of_those ~ " union all "
        ~ rows ~ "read_parquet('" ~ before ~ "')" ~ of_those ~ ")").rows[0][0] %}
    {{ return(found[1:] if found else none) }}
{% endmacro %}


{% macro remember_published(id) %}
    {% if increments_are_noted is defined and increments_are_noted() %}
        {% do run_query('begin; delete from ' ~ notes_schema() ~ '.unpublished; delete from '
            ~ notes_schema() ~ '.published; insert into ' ~ notes_schema() ~ ".published values ('"
            ~ id ~ "'); commit") %}
    {% endif %}
{% endmacro %}


{#- What a snapshot consists of: each model with the columns its files are sorted by, and the time
    that says to which month's file a row belongs (none: all are in one). -#}
{% macro published_models() %}
    {% set wanted = [] %}
    {% for node in graph.nodes.values() if node.resource_type == 'model' %}
        {% set view = node.config.get('meta', {}).get('feature_view') %}
        {% set order = node.config.get('meta', {}).get('publish_order') %}
        {% if view %}
            {% set keys = [] %}
            {% for entity in view.entities %}
                {% do keys.append(var('entities')[entity].join_key) %}
            {% endfor %}
            {% do wanted.append({'node': node, 'sort': keys + ['known_at'], 'period': 'known_at'}) %}
        {% elif order %}
            {% set times = node.columns.values() | selectattr('data_type', 'equalto', 'timestamptz')
                | map(attribute='name') | select('in', order) | list %}
            {% do wanted.append({'node': node, 'sort': order, 'period': times | first}) %}
        {% endif %}
    {% endfor %}
    {{ return(wanted) }}
{% endmacro %}
