with departures as (select * from {{ ref('int_departures') }}),

arrivals as (select * from {{ ref('int_arrivals') }}),

overdue_changes as (select * from {{ ref('int_overdue_changes') }}),

events as (
    select
        origin,
        known_at,
        1 as departures,
        departure_delay_min as departure_delay,
        is_late::integer as late_departures,
    from departures
    union all by name
    select
        origin,
        known_at,
        1 as arrivals,
        arrival_delay_min as arrival_delay,
        taxi_min as taxi,
    from arrivals
    union all by name
    select
        origin,
        known_at,
        change as overdue,
        change * epoch(scheduled_departure_at)::bigint as overdue_epoch,
    from overdue_changes
    -- by the schedule, which both ends of a spell share, and at most six hours after which it ends
    where {{ since('scheduled_departure_at', ['6 hours', var('serving_grid')]) }}
),

state as (
    {{
        windowed_state(
            'events',
            keys=['origin'],
            windows={
                'departures': ['1 hour', '3 hours', '24 hours'],
                'departure_delay': ['1 hour', '3 hours', '24 hours'],
                'late_departures': ['1 hour', '3 hours'],
                'arrivals': ['3 hours'],
                'arrival_delay': ['3 hours'],
                'taxi': ['3 hours'],
                'overdue': [none],
                'overdue_epoch': [none],
            },
        ) | indent(4)
    }}
),

final as (
    select
        origin,
        known_at,
        departures_1h as origin_departures_1h,
        departures_3h as origin_departures_3h,
        departures_24h as origin_departures_24h,
        {{ mean_of('departure_delay_1h', 'departures_1h') }}
            as origin_departure_delay_mean_1h_min,
        {{ mean_of('departure_delay_3h', 'departures_3h') }}
            as origin_departure_delay_mean_3h_min,
        {{ mean_of('departure_delay_24h', 'departures_24h') }}
            as origin_departure_delay_mean_24h_min,
        {{ mean_of('late_departures_1h', 'departures_1h') }} as origin_late_departure_rate_1h,
        {{ mean_of('late_departures_3h', 'departures_3h') }} as origin_late_departure_rate_3h,
        {{ mean_of('arrival_delay_3h', 'arrivals_3h') }} as origin_arrival_delay_mean_3h_min,
        {{ mean_of('taxi_3h', 'arrivals_3h') }} as origin_taxi_mean_3h_min,
        overdue as origin_overdue,
        to_timestamp(overdue_epoch // nullif(overdue, 0)) as origin_overdue_scheduled_at,
    from state
)

select * from final
