with reports as (select * from {{ ref('stg_weather') }}),

first_told as (
    select *
    from reports
    qualify row_number() over (partition by origin, observed_at order by _loaded_at) = 1
),

-- several hours may be delivered at one instant: the newest of them is the one to know
newest_known as (
    select *
    from first_told
    qualify
        row_number() over (partition by origin, _loaded_at order by observed_at desc) = 1
        and observed_at >= max(observed_at) over (
            partition by origin order by _loaded_at
        )
),

final as (
    select
        -- keys
        origin,

        -- times
        observed_at,
        _loaded_at as known_at,

        -- numbers
        temperature_f,
        dew_point_f,
        humidity_pct,
        wind_speed_mph,
        wind_gust_mph,
        -- the direction is where the wind comes FROM; calm air has none
        case
            when wind_speed_mph = 0 then 0
            else -wind_speed_mph * sin(radians(wind_direction_deg))
        end as wind_east_mph,
        case
            when wind_speed_mph = 0 then 0
            else -wind_speed_mph * cos(radians(wind_direction_deg))
        end as wind_north_mph,
        precipitation_in,
        pressure_mb,
        visibility_mi,
    from newest_known
)

select * from final
