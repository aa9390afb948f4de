{#- Schemas are named for the layer (`features`), with the target's own schema in front
    only where that is not the default, so that two targets never share a table. A build as of
    an instant has that in front too: it never touches a table of another build. -#}
{% macro generate_schema_name(custom_schema_name, node) -%}
    {%- set own = [] -%}
    {%- if var('as_of', none) -%} {%- do own.append('as_of_' ~ as_of_stamp()) -%} {%- endif -%}
    {%- if target.schema != 'main' or (custom_schema_name is none and not own) -%}
        {%- do own.append(target.schema) -%}
    {%- endif -%}
    {%- if custom_schema_name is not none -%} {%- do own.append(custom_schema_name | trim) -%} {%- endif -%}
    {{ own | join('_') }}
{%- endmacro %}
