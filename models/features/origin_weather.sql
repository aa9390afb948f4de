with reports as (
    select *
    from {{ ref('int_weather') }}
    -- an airport's reports are known in the order of their hours, so three hours before is enough
    {%- if is_increment() %}
    where
        observed_at >= (
            select min(told.observed_at) - interval 3 hours
            from {{ ref('int_weather') }} as told
            where {{ since('told.known_at') }}
        )
    {%- endif %}
),

windowed as (
    select
        *,
        -- summed in thousandths, so that the order of adding cannot show in the last digit
        sum(round(precipitation_in * 1000)::bigint) over last_3h / 1000 as precipitation_3h_in,
        min(visibility_mi) over last_3h as visibility_worst_3h_mi,
        pressure_mb - first_value(pressure_mb) over three_hours_before as pressure_change_3h_mb,
    from reports
    window
        last_3h as (
            partition by origin order by observed_at
            range between interval 2 hours preceding and current row
        ),
        three_hours_before as (
            partition by origin order by observed_at
            range between interval 3 hours preceding and interval 3 hours preceding
        )
),

final as (
    select
        origin,
        known_at,
        observed_at as weather_observed_at,
        temperature_f as weather_temperature_f,
        temperature_f - dew_point_f as weather_dew_point_spread_f,
        humidity_pct as weather_humidity_pct,
        wind_east_mph as weather_wind_east_mph,
        wind_north_mph as weather_wind_north_mph,
        wind_speed_mph as weather_wind_speed_mph,
        coalesce(wind_gust_mph, wind_speed_mph) as weather_gust_or_wind_mph,
        precipitation_in as weather_rain_1h_in,
        precipitation_3h_in as weather_rain_3h_in,
        visibility_mi as weather_visibility_mi,
        visibility_worst_3h_mi as weather_visibility_worst_3h_mi,
        pressure_mb as weather_pressure_mb,
        pressure_change_3h_mb as weather_pressure_change_3h_mb,
        case
            when temperature_f <= 32 then precipitation_in
            when temperature_f > 32 then precipitation_in * 0
        end
            as weather_freezing_rain_1h_in,
    from windowed
)

select *
from final
where {{ since('known_at') }}
