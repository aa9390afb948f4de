{#- Messages about a flight in the order in which they were told. Of several that reached us at one
    instant, the one that comes earlier in a flight's life goes first. -#}
{% macro order_of_telling() -%}
    (
        epoch_us(_loaded_at) * 8
        + list_position(['scheduled', 'assigned', 'departed', 'arrived', 'closed'], record_kind)
    )
{%- endmacro %}


{#- A condition on a flight: a message about it is among those for which this model is built again.
    True where all of it is built. The model has them as its CTE `messages`, not materialized, and
    the flight's local day is compared too: it is a part of the key, and lets DuckDB pass over all
    of history that holds other days. -#}
{% macro told_of_since() -%}
    {%- if is_increment() -%}
        (flight_id, scheduled_local_date) in (
            select told.flight_id, told.scheduled_local_date
            from messages as told
            where {{ since('told._loaded_at') }}
        )
    {%- else -%} true
    {%- endif -%}
{%- endmacro %}
