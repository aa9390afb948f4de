with delivered as (select * from {{ ref('stg_airports') }}),

seeded as (select * from {{ ref('extra_airports') }}),

first_delivered as (
    select *
    from delivered
    qualify row_number() over (partition by airport order by _loaded_at) = 1
),

-- the feed lacks four airports in the Caribbean
added as (
    select
        seeded.faa as airport,
        seeded.name as airport_name,
        seeded.tzone as time_zone,
        seeded.lat as latitude_deg,
        seeded.lon as longitude_deg,
    from seeded
    anti join first_delivered on seeded.faa = first_delivered.airport
),

final as (
    select
        airport,
        airport_name,
        time_zone,
        latitude_deg,
        longitude_deg,
    from first_delivered
    union all by name
    select * from added
)

select * from final
