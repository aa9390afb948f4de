{{
    config(
        materialized='incremental',
        incremental_strategy='rebuild_since',
        meta={'known_by': '_loaded_at'},
    )
}}
with records as (select * from {{ ref('base_flights') }}),

renamed as (
    select
        -- keys
        strftime(make_date(year, month, day), '%Y-%m-%d')
        || '_' || carrier || '_' || flight || '_' || origin as flight_id,
        carrier,
        flight,
        origin,
        dest,
        tailnum,

        -- times: local clocks as delivered, and when the message reached us
        make_date(year, month, day) as scheduled_local_date,
        sched_dep_time as scheduled_departure_hhmm,
        sched_arr_time as scheduled_arrival_hhmm,
        dep_time as departure_hhmm,
        arr_time as arrival_hhmm,
        time_hour as scheduled_departure_hour_at,
        _loaded_at,

        -- strings
        record as record_kind,

        -- numbers
        dep_delay as departure_delay_min,
        arr_delay as arrival_delay_min,
        air_time as air_time_min,
        distance as distance_mi,
    from records
    where _problem is null and {{ since('_loaded_at') }}
)

select * from renamed
