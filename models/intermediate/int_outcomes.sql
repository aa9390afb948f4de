{{
    config(
        materialized='incremental',
        incremental_strategy='delete+insert',
        unique_key='flight_id',
        meta={'told_of_by': 'int_flight_messages'},
    )
}}
with flights as (select * from {{ ref('int_flights') }}),

arrivals as (select * from {{ ref('int_arrivals') }}),

departures as (select * from {{ ref('int_departures') }}),

messages as not materialized (select * from {{ ref('stg_flights') }}),

told as (
    select *
    from flights
    where {{ told_of_since() }}
),

closures as (
    select *
    from messages
    where
        record_kind = 'closed'
        and {{ told_of_since() }}
    qualify row_number() over (partition by flight_id order by _loaded_at) = 1
),

final as (
    select
        -- keys
        told.flight_id,

        -- times
        coalesce(arrivals.known_at, closures._loaded_at) as known_at,

        -- strings
        case
            when arrivals.flight_id is not null then 'completed'
            when closures.flight_id is null then 'pending'
            when closures.departure_delay_min is null then 'cancelled'
            else 'diverted'
        end as outcome,

        -- numbers
        coalesce(
            departures.departure_delay_min,
            arrivals.departure_delay_min,
            closures.departure_delay_min
        ) as departure_delay_min,
        arrivals.arrival_delay_min,

        -- booleans
        arrivals.is_late,
    from told
    left join departures on told.flight_id = departures.flight_id
    left join arrivals on told.flight_id = arrivals.flight_id
    left join closures on told.flight_id = closures.flight_id
)

select * from final
