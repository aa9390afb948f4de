{{ config(materialized='table') }}
with aircraft as (select * from {{ ref('int_aircraft') }}),

final as (
    select
        tailnum,
        known_at,
        maker as plane_maker,
        year_built as plane_year_built,
        seat_count as plane_seats,
        is_airliner as plane_is_matched,
    from aircraft
)

select * from final
