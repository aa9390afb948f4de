-- Nothing is lost: lines read = rows staged + rows in quarantine, for each source. Lines are
-- counted in the files themselves, by a way of its own; as of an instant not all of them are read.
{{ config(enabled=not var('as_of', none), tags=['whole']) }}
{% set sources = ['flights', 'weather', 'planes', 'airports', 'airlines'] %}
with read as (
    {% for name in sources %}
    select
        '{{ name }}' as source_name,
        -- a last line without an end still is a line; the header is none
        sum(
            len(text) - len(replace(text, chr(10), ''))
            + (not ends_with(text, chr(10)))::integer - 1
        ) as lines,
    from (
        select decode(content) as text
        from read_blob('{{ var("raw_path") }}/{{ name }}/*.csv')
    )
    {{ 'union all' if not loop.last }}
    {% endfor %}
),

staged as (
    {% for name in sources %}
    select
        '{{ name }}' as source_name,
        count(*) as lines,
    from {{ ref('stg_' ~ name) }}
    {{ 'union all' if not loop.last }}
    {% endfor %}
),

quarantined as (
    select
        source_name,
        count(*) as lines,
    from {{ ref('quarantine') }}
    group by all
)

select
    read.source_name,
    read.lines as lines_read,
    staged.lines as lines_staged,
    coalesce(quarantined.lines, 0) as lines_quarantined,
from read
inner join staged on read.source_name = staged.source_name
left join quarantined on read.source_name = quarantined.source_name
where lines_read != lines_staged + lines_quarantined
