{{
    config(
        materialized='incremental',
        incremental_strategy='delete+insert',
        unique_key='flight_id',
        on_schema_change='fail',
    )
}}
with flights as (select * from {{ ref('int_flights') }}),

assignments as (select * from {{ ref('int_aircraft_assignments') }}),

outcomes as (select * from {{ ref('int_outcomes') }}),

-- read by an incremental build only
messages as not materialized (  -- noqa: ST03
    select * from {{ ref('int_flight_messages') }}
),

timed as (
    select
        *,
        scheduled_departure_at - interval {{ var('horizon') }} as predict_at,
    from flights
    where {{ told_of_since() }}
),

final as (
    select
        -- keys
        timed.flight_id,
        timed.carrier,
        timed.flight,
        timed.origin,
        timed.dest,
        case when assignments.known_at <= timed.predict_at then assignments.tailnum end as tailnum,

        -- times
        timed.predict_at,
        timed.scheduled_departure_at as sched_dep_at,
        timed.scheduled_arrival_at as sched_arr_at,
        outcomes.known_at as label_known_at,

        -- numbers
        timed.distance_mi::double as distance_mi,
        timed.block_min::double as block_min,

        -- outcomes: never features
        outcomes.outcome,
        outcomes.departure_delay_min::bigint as departure_delay_min,
        outcomes.arrival_delay_min::bigint as arrival_delay_min,
        outcomes.is_late,
    from timed
    inner join outcomes on timed.flight_id = outcomes.flight_id
    left join assignments on timed.flight_id = assignments.flight_id
)

select * from final
