{#- Arithmetic on local clocks. Everything past the intermediate layer is UTC. -#}

{#- Minutes after local midnight of an hhmm clock time; 2400 is 1440. -#}
{% macro minutes_of_day(hhmm) -%}
    ({{ hhmm }} // 100 * 60 + {{ hhmm }} % 100)
{%- endmacro %}


{#- The instant at which a clock in `zone` shows `hhmm` on `local_date`. -#}
{% macro local_clock_at(local_date, hhmm, zone) -%}
    timezone({{ zone }}, {{ local_date }}::timestamp + to_minutes({{ minutes_of_day(hhmm) }}))
{%- endmacro %}


{#- The instant at which a clock in `zone` shows `hhmm`, on the day that puts it nearest to the
    instant `near`. Days are days of the wall clock, so a DST night counts as one. -#}
{% macro local_clock_nearest(local_date, hhmm, zone, near) -%}
    {%- set first_guess = local_clock_at(local_date, hhmm, zone) -%}
    {%- set days = 'round(epoch(' ~ near ~ ' - ' ~ first_guess ~ ') / 86400)::integer' -%}
    {{ local_clock_at('(' ~ local_date ~ ' + ' ~ days ~ ')', hhmm, zone) }}
{%- endmacro %}
