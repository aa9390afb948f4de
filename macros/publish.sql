{#- on-run-end: a build in which everything succeeded is published as one snapshot.

    Published are the feature views and every model with `meta.publish_order`. A run that built
    only some of them publishes nothing, since the tables would come from different builds; nor
    does one with a failure. -#}
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
    {% set staging = run_query(
        "select snapshot_begin('" ~ published_path() ~ "', '" ~ id ~ "')").rows[0][0] %}
    {% set tables = {} %}
    {% for item in wanted %}
        {% set relation = api.Relation.create(
            database=item.node.database, schema=item.node.schema, identifier=item.node.alias) %}
        {% set copied = run_query(
            "copy (select * from " ~ relation ~ " order by " ~ item.sort | join(', ') ~ ") to '"
            ~ staging ~ "/" ~ item.node.name ~ ".parquet' (format parquet, compression zstd)") %}
        {% do tables.update({item.node.name: copied.rows[0][0] | int}) %}
    {% endfor %}
    {% set description = {
        'tables': tables,
        'dbt_invocation_id': invocation_id,
        'dbt_target': target.name,
    } %}
    {% do run_query("select snapshot_publish('" ~ staging ~ "', '"
        ~ tojson(description) | replace("'", "''") ~ "', " ~ var('keep_snapshots') ~ ")") %}
    {% do log('Published snapshot ' ~ id ~ ': ' ~ tables | length ~ ' tables, '
        ~ '{:,}'.format(tables.values() | sum) ~ ' rows.', info=true) %}
{% endmacro %}


{#- What a snapshot consists of: each model with the columns its file is sorted by. -#}
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
            {% do wanted.append({'node': node, 'sort': keys + ['known_at']}) %}
        {% elif order %}
            {% do wanted.append({'node': node, 'sort': order}) %}
        {% endif %}
    {% endfor %}
    {{ return(wanted) }}
{% endmacro %}
