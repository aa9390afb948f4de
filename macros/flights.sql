{#- Messages about a flight in the order in which they were told. Of several that reached us at one
    instant, the one that comes earlier in a flight's life goes first. -#}
{% macro order_of_telling() -%}
    (
        epoch_us(_loaded_at) * 8
        + list_position(['scheduled', 'assigned', 'departed', 'arrived', 'closed'], record_kind)
    )
{%- endmacro %}
