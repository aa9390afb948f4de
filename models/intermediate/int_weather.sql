{{ config(materialized='incremental', incremental_strategy='rebuild_since') }}
with reports as (select * from {{ ref('stg_weather') }}),

{%- if is_increment() %}

told_before as (
    select
        origin,
        max(observed_at) as observed_at,
    from reports
    where not ({{ since('_loaded_at') }})
    group by origin
),

not_told_before as (
    select reports.*
    from reports
    left join told_before on reports.origin = told_before.origin
    where
        {{ since('reports._loaded_at') }}
        and reports.observed_at > coalesce(told_before.observed_at, '-infinity')
),
{%- endif %}

-- several hours may be delivered at one instant: the newest of them is the one to know
newest as (
    select *
    from {{ 'not_told_before' if is_increment() else 'reports' }}
    qualify row_number() over (partition by origin, _loaded_at order by observed_at desc) = 1
),

-- an hour that was told before, or that comes after a newer one, tells nothing new
newest_known as (
    select *
    from newest
    qualify
        observed_at > coalesce(
            max(observed_at) over (
                partition by origin order by _loaded_at
                rows between unbounded preceding and 1 preceding
            ),
            '-infinity'
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
