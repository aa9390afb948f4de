with sales as (select * from {{ source('till', 'sales') }}),

-- a sale may be corrected later: what was told first is what was known
first_told as (
    select *
    from sales
    qualify row_number() over (partition by sale_id order by loaded_at) = 1
),

final as (
    select
        store,
        loaded_at as known_at,
        max(amount) over so_far::bigint as largest_sale,
        count(*) over so_far::bigint as sales,
    from first_told
    window so_far as (partition by store order by loaded_at)
)

select * from final
