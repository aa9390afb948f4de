with departures as (select * from {{ ref('int_departures') }}),

arrivals as (select * from {{ ref('int_arrivals') }}),

events as (
    select
        tailnum,
        known_at,
        1 as departures,
        departure_delay_min as departure_delay,
    from departures
    union all by name
    select
        tailnum,
        known_at,
        1 as arrivals,
        arrival_delay_min as arrival_delay,
    from arrivals
),

state as (
    {{
        windowed_state(
            'events',
            keys=['tailnum'],
            windows={
                'departures': ['24 hours'],
                'departure_delay': ['24 hours'],
                'arrivals': ['24 hours'],
                'arrival_delay': ['24 hours'],
            },
        ) | indent(4)
    }}
),

final as (
    select
        tailnum,
        known_at,
        departures_24h as tail_departures_24h,
        {{ mean_of('departure_delay_24h', 'departures_24h') }}
            as tail_departure_delay_mean_24h_min,
        arrivals_24h as tail_arrivals_24h,
        {{ mean_of('arrival_delay_24h', 'arrivals_24h') }} as tail_arrival_delay_mean_24h_min,
    from state
)

select * from final
