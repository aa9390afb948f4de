with departures as (select * from {{ ref('int_departures') }}),

arrivals as (select * from {{ ref('int_arrivals') }}),

overdue_changes as (select * from {{ ref('int_overdue_changes') }}),

events as (
    select
        carrier,
        origin,
        known_at,
        1 as departures,
        departure_delay_min as departure_delay,
        is_late::integer as late_departures,
    from departures
    union all by name
    select
        carrier,
        origin,
        known_at,
        1 as arrivals,
        arrival_delay_min as arrival_delay,
        is_late::integer as late_arrivals,
    from arrivals
    union all by name
    select
        carrier,
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
            keys=['carrier', 'origin'],
            windows={
                'departures': ['3 hours', '24 hours'],
                'departure_delay': ['3 hours', '24 hours'],
                'late_departures': ['3 hours', '24 hours'],
                'arrivals': ['24 hours', '7 days'],
                'arrival_delay': ['24 hours'],
                'late_arrivals': ['24 hours', '7 days'],
                'overdue': [none],
                'overdue_epoch': [none],
            },
        ) | indent(4)
    }}
),

final as (
    select
        carrier,
        origin,
        known_at,
        departures_3h as carrier_departures_3h,
        departures_24h as carrier_departures_24h,
        {{ mean_of('departure_delay_3h', 'departures_3h') }}
            as carrier_departure_delay_mean_3h_min,
        {{ mean_of('departure_delay_24h', 'departures_24h') }}
            as carrier_departure_delay_mean_24h_min,
        {{ mean_of('late_departures_3h', 'departures_3h') }} as carrier_late_departure_rate_3h,
        {{ mean_of('late_departures_24h', 'departures_24h') }}
            as carrier_late_departure_rate_24h,
        arrivals_24h as carrier_arrivals_24h,
        {{ mean_of('late_arrivals_24h', 'arrivals_24h') }} as carrier_late_arrival_rate_24h,
        {{ mean_of('late_arrivals_7d', 'arrivals_7d') }} as carrier_late_arrival_rate_7d,
        {{ mean_of('arrival_delay_24h', 'arrivals_24h') }}
            as carrier_arrival_delay_mean_24h_min,
        overdue as carrier_overdue,
        to_timestamp(overdue_epoch // nullif(overdue, 0)) as carrier_overdue_scheduled_at,
    from state
)

select * from final
