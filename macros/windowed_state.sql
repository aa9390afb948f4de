{#- What was known over moving windows, one row per key and instant at which it changes.

    Every view of this project that counts or averages uses this one macro. `events` names a
    relation or CTE with the key columns, `known_at`, and one integer column per measure.
    `windows` maps a measure to the windows wanted of it, for example
    {'departures': ['1 hour', '24 hours'], 'overdue': [none]}; `none` never forgets, for queues
    fed by +1 and -1. Each gives a column `<measure>_<n><unit>` (`departures_24h`), or
    `<measure>` alone for `none`.

    An event counts from the first grid instant at or after its `known_at`, and stops counting
    one window later. So the state is written as changes, +x when an event enters and -x when it
    leaves, and a running sum gives it back: exact, since the measures are integers
    (summed as doubles, which hold them exactly up to 2^53 and cost a quarter of hugeint), at a
    cost of n log n for n events times windows. Instants at which nothing changes have no row.

    In an incremental build the state is built from an instant on, out of the events of one window
    before it: older ones have entered and left. A queue has no such bound, so its events are taken
    as given: `events` must hold both ends of a spell, or neither (`since` on a time both share). -#}
{% macro windowed_state(events, keys, windows) %}
{%- set measures = windows.keys() | list -%}
{%- set spans = windows.values() | sum(start=[]) | unique | list -%}
{%- set states = [] -%}
{%- for measure in measures -%}
    {%- for span in windows[measure] -%}
        {%- do states.append({'measure': measure, 'span': span,
            'name': measure if span is none else measure ~ '_' ~ window_suffix(span)}) -%}
    {%- endfor -%}
{%- endfor -%}
with on_grid as (
    select
        {{ keys | join(', ') }},
        {{ next_grid_instant('known_at') }} as known_at,
        {%- for measure in measures %}
        coalesce(sum({{ measure }}), 0)::bigint as {{ measure }},
        {%- endfor %}
    from {{ events }}
    where
        {% for key in keys %}{{ key }} is not null{{ ' and ' if not loop.last }}{% endfor %}
        {%- if is_increment() %}
        and (
            {{ since('known_at', [longest_window(spans), var('serving_grid')]) }}
            {%- for measure in measures if none in windows[measure] %}
            or {{ measure }} is not null
            {%- endfor %}
        )
        {%- endif %}
    group by all
),

changes as (
    select
        {{ keys | join(', ') }},
        known_at,
        {%- for state in states %}
        {{ state.measure }} as {{ state.name }},
        {%- endfor %}
    from on_grid
    {%- for span in spans if span is not none %}
    union all
    select
        {{ keys | join(', ') }},
        known_at + interval {{ span }},
        {%- for state in states %}
        {{ '-' ~ state.measure if state.span == span else 0 }},
        {%- endfor %}
    from on_grid
    {%- endfor %}
),

collapsed as (
    select
        {{ keys | join(', ') }},
        known_at,
        {%- for state in states %}
        sum({{ state.name }})::double as {{ state.name }},
        {%- endfor %}
    from changes
    group by all
),

running as (
    select
        {{ keys | join(', ') }},
        known_at,
        {%- for state in states %}
        sum({{ state.name }}) over so_far::bigint as {{ state.name }},
        {%- endfor %}
    from collapsed
    where not (
        {%- for state in states %}
        {{ state.name }} = 0{{ ' and' if not loop.last }}
        {%- endfor %}
    )
    window so_far as (
        partition by {{ keys | join(', ') }} order by known_at rows unbounded preceding
    )
)

select * from running
{%- if is_increment() %}
where {{ since('known_at') }}
{%- endif %}
{%- endmacro %}


{#- The first instant of the serving grid at or after `instant`. -#}
{% macro next_grid_instant(instant) -%}
    time_bucket(
        interval {{ var('serving_grid') }},
        {{ instant }} + interval {{ var('serving_grid') }} - interval 1 microsecond
    )
{%- endmacro %}


{#- The longest of some windows, as text. -#}
{% macro longest_window(spans) -%}
    {%- set minutes = {'minute': 1, 'hour': 60, 'day': 1440, 'week': 10080} -%}
    {%- set longest = namespace(span='0 minutes', minutes=0) -%}
    {%- for span in spans if span is not none -%}
        {%- set number, unit = span.split(' ') -%}
        {%- set length = number | int * minutes[unit.rstrip('s')] -%}
        {%- if length > longest.minutes -%}
            {%- set longest.span, longest.minutes = span, length -%}
        {%- endif -%}
    {%- endfor -%}
    {{ return(longest.span) }}
{%- endmacro %}


{#- '24 hours' -> '24h', '7 days' -> '7d' -#}
{% macro window_suffix(span) -%}
    {%- set number, unit = span.split(' ') -%}
    {{ return(number ~ unit[0]) }}
{%- endmacro %}


{#- A mean out of a sum and a count; NULL where nothing was counted. -#}
{% macro mean_of(total, count) -%}
    {{ total }}::double / nullif({{ count }}, 0)
{%- endmacro %}
