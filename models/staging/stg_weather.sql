{{
    config(
        materialized='incremental',
        incremental_strategy='rebuild_since',
        meta={'known_by': '_loaded_at'},
    )
}}
with reports as (select * from {{ ref('base_weather') }}),

renamed as (
    select
        -- keys
        origin,

        -- times
        time_hour as observed_at,
        _loaded_at,

        -- numbers
        temp as temperature_f,
        dewp as dew_point_f,
        humid as humidity_pct,
        wind_dir as wind_direction_deg,
        -- one reading of 1,048 mph: no wind, a typing error
        case when wind_speed <= 100 then wind_speed end as wind_speed_mph,
        wind_gust as wind_gust_mph,
        precip as precipitation_in,
        pressure as pressure_mb,
        visib as visibility_mi,
    from reports
    where _problem is null and {{ since('_loaded_at') }}
)

select * from renamed
