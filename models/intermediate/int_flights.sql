{{ config(materialized='incremental', incremental_strategy='rebuild_since') }}
with messages as not materialized (select * from {{ ref('stg_flights') }}),

airports as (select * from {{ ref('int_airports') }}),

-- A schedule is what was told first; a later message does not rewrite it. Every message carries
-- it, so a flight whose `scheduled` message was lost is known from its next one.
first_told as (
    select unnest(arg_min(messages, {{ order_of_telling() }}))
    from messages
    where {{ told_of_since() }}
    group by flight_id
    having {{ since('min(_loaded_at)') }}
),

departing as (
    select
        first_told.*,
        destinations.time_zone as dest_time_zone,
        {{
            local_clock_at(
                'first_told.scheduled_local_date',
                'first_told.scheduled_departure_hhmm',
                'origins.time_zone',
            )
        }} as scheduled_departure_at,
    from first_told
    inner join airports as origins on first_told.origin = origins.airport
    inner join airports as destinations on first_told.dest = destinations.airport
),

-- the arrival clock is in the destination's zone and may belong to the day before or after:
-- take the day nearest to what the distance allows (40 min, and 7.6 miles a minute)
arriving as (
    select
        *,
        {{
            local_clock_nearest(
                'scheduled_local_date',
                'scheduled_arrival_hhmm',
                'dest_time_zone',
                'scheduled_departure_at + to_seconds(60 * (40 + distance_mi / 7.6))',
            )
        }} as scheduled_arrival_at,
    from departing
),

final as (
    select
        -- keys
        flight_id,
        carrier,
        flight,
        origin,
        dest,

        -- times
        _loaded_at as known_at,
        scheduled_departure_at,
        scheduled_arrival_at,
        scheduled_departure_hour_at,
        scheduled_local_date,

        -- strings
        dest_time_zone,

        -- numbers
        distance_mi,
        date_diff('minute', scheduled_departure_at, scheduled_arrival_at) as block_min,
    from arriving
)

select * from final
