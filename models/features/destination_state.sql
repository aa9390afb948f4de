with departures as (select * from {{ ref('int_departures') }}),

arrivals as (select * from {{ ref('int_arrivals') }}),

overdue_changes as (select * from {{ ref('int_overdue_changes') }}),

events as (
    select
        dest,
        known_at,
        1 as departures,
        departure_delay_min as departure_delay,
        is_late::integer as late_departures,
    from departures
    union all by name
    select
        dest,
        known_at,
        1 as arrivals,
        arrival_delay_min as arrival_delay,
        is_late::integer as late_arrivals,
        round(air_time_min - distance_mi / 7.6)::integer as air_time_excess,
    from arrivals
    union all by name
    select
        dest,
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
            keys=['dest'],
            windows={
                'departures': ['6 hours'],
                'departure_delay': ['6 hours'],
                'late_departures': ['6 hours'],
                'arrivals': ['6 hours', '24 hours'],
                'arrival_delay': ['6 hours', '24 hours'],
                'late_arrivals': ['6 hours', '24 hours'],
                'air_time_excess': ['6 hours'],
                'overdue': [none],
                'overdue_epoch': [none],
            },
        ) | indent(4)
    }}
),

final as (
    select
        dest,
        known_at,
        departures_6h as dest_departures_6h,
        {{ mean_of('departure_delay_6h', 'departures_6h') }} as dest_departure_delay_mean_6h_min,
        {{ mean_of('late_departures_6h', 'departures_6h') }} as dest_late_departure_rate_6h,
        arrivals_6h as dest_arrivals_6h,
        arrivals_24h as dest_arrivals_24h,
        {{ mean_of('arrival_delay_6h', 'arrivals_6h') }} as dest_arrival_delay_mean_6h_min,
        {{ mean_of('arrival_delay_24h', 'arrivals_24h') }} as dest_arrival_delay_mean_24h_min,
        {{ mean_of('late_arrivals_6h', 'arrivals_6h') }} as dest_late_arrival_rate_6h,
        {{ mean_of('late_arrivals_24h', 'arrivals_24h') }} as dest_late_arrival_rate_24h,
        {{ mean_of('air_time_excess_6h', 'arrivals_6h') }} as dest_air_time_excess_mean_6h_min,
        overdue as dest_overdue,
        to_timestamp(overdue_epoch // nullif(overdue, 0)) as dest_overdue_scheduled_at,
    from state
)

select * from final
