with airlines as (select * from {{ ref('base_airlines') }}),

renamed as (
    select
        -- keys
        carrier,

        -- times
        _loaded_at,

        -- strings
        name as airline_name,
    from airlines
    where _problem is null
)

select * from renamed
