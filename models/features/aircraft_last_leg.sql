with departures as not materialized (select * from {{ ref('int_departures') }}),

arrivals as not materialized (select * from {{ ref('int_arrivals') }}),

moved as (
    select departures.tailnum
    from departures
    where {{ since('departures.known_at', [var('serving_grid')]) }}
    union
    select departures.tailnum
    from departures
    where
        departures.flight_id in (
            select arrivals.flight_id
            from arrivals
            where {{ since('arrivals.known_at', [var('serving_grid')]) }}
        )
),

-- of what was known before, only an aircraft's last leg can still land or be followed by another
departed as (
    select
        *,
        {{ next_grid_instant('known_at') }} as departure_known_at,
    from departures
    where tailnum in (select moved.tailnum from moved)
    {%- if is_increment() %}
    qualify
        {{ since('departure_known_at') }}
        or row_number() over (
            partition by tailnum, {{ since('departure_known_at') }}
            order by event_at desc, departure_known_at desc, flight_id desc
        ) = 1
    {%- endif %}
),

legs as (
    select
        departed.tailnum,
        departed.flight_id,
        departed.origin,
        departed.event_at as departed_at,
        arrivals.event_at as arrived_at,
        departed.departure_delay_min::bigint as departure_delay_min,
        arrivals.arrival_delay_min::bigint as arrival_delay_min,
        departed.block_min,
        departed.departure_known_at,
        {{ next_grid_instant('arrivals.known_at') }} as arrival_known_at,
    from departed
    left join arrivals on departed.flight_id = arrivals.flight_id
),

-- of the legs that became known at one instant, the later departed is the last one; a leg that
-- departed before one already known never becomes the last
latest_known as (
    select *
    from legs
    qualify
        row_number() over (
            partition by tailnum, departure_known_at order by departed_at desc, flight_id desc
        ) = 1
        and departed_at >= max(departed_at) over (
            partition by tailnum order by departure_known_at
        )
),

spells as (
    select
        *,
        lead(departure_known_at) over (
            partition by tailnum order by departure_known_at
        ) as superseded_at,
    from latest_known
),

in_the_air as (
    select
        tailnum,
        departure_known_at as known_at,
        departed_at as tail_last_departed_at,
        departed_at + to_minutes(block_min) as tail_last_expected_arrival_at,
        origin as tail_last_origin,
        departure_delay_min as tail_last_departure_delay_min,
        null::bigint as tail_last_arrival_delay_min,
        block_min as tail_last_block_min,
        false as tail_last_has_landed,
    from spells
    where arrival_known_at is null or arrival_known_at > departure_known_at
),

on_the_ground as (
    select
        tailnum,
        greatest(arrival_known_at, departure_known_at) as known_at,
        departed_at as tail_last_departed_at,
        arrived_at as tail_last_expected_arrival_at,
        origin as tail_last_origin,
        departure_delay_min as tail_last_departure_delay_min,
        arrival_delay_min as tail_last_arrival_delay_min,
        block_min as tail_last_block_min,
        true as tail_last_has_landed,
    from spells
    where
        arrival_known_at is not null
        and (superseded_at is null or arrival_known_at < superseded_at)
),

final as (
    select * from in_the_air
    union all
    select * from on_the_ground
)

select *
from final
where {{ since('known_at') }}
