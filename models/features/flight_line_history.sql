with arrivals as (select * from {{ ref('int_arrivals') }}),

events as (
    select
        carrier,
        flight,
        origin,
        dest,
        known_at,
        1 as arrivals,
        arrival_delay_min as arrival_delay,
        is_late::integer as late_arrivals,
        elapsed_min as elapsed,
    from arrivals
),

state as (
    {{
        windowed_state(
            'events',
            keys=['carrier', 'flight', 'origin', 'dest'],
            windows={
                'arrivals': ['7 days', '28 days'],
                'arrival_delay': ['7 days', '28 days'],
                'late_arrivals': ['7 days', '28 days'],
                'elapsed': ['28 days'],
            },
        ) | indent(4)
    }}
),

final as (
    select
        carrier,
        flight,
        origin,
        dest,
        known_at,
        arrivals_7d as line_arrivals_7d,
        arrivals_28d as line_arrivals_28d,
        {{ mean_of('late_arrivals_7d', 'arrivals_7d') }} as line_late_arrival_rate_7d,
        {{ mean_of('late_arrivals_28d', 'arrivals_28d') }} as line_late_arrival_rate_28d,
        {{ mean_of('arrival_delay_7d', 'arrivals_7d') }} as line_arrival_delay_mean_7d_min,
        {{ mean_of('arrival_delay_28d', 'arrivals_28d') }}
            as line_arrival_delay_mean_28d_min,
        {{ mean_of('elapsed_28d', 'arrivals_28d') }} as line_elapsed_mean_28d_min,
    from state
)

select * from final
